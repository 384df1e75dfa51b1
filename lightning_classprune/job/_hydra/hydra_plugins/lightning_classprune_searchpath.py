"""Hydra plugin: every application in this environment can say `callbacks=[default,classprune]`.

Hydra imports each module of the namespace package `hydra_plugins` whenever an application starts, so this one imports
neither torch nor Lightning.
"""

from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ClassPruneSearchPath(SearchPathPlugin):
    """Appends the folder with `callbacks/classprune.yaml`, and nothing else, to the search path.

    The application's own folders come first, so a `callbacks/classprune.yaml` of its own wins.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder, wherever the package is installed; do nothing if it is not."""
        spec = find_spec("lightning_classprune")
        for package in map(Path, (spec and spec.submodule_search_locations) or []):
            for conf in (package / "conf", package.parent / "conf"):  # a wheel; a source tree
                if (conf / "plugin").is_dir():
                    search_path.append("lightning-classprune", f"file://{conf / 'plugin'}")
                    return
