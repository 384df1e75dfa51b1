"""python classify_folder.py model.onnx FOLDER: the class of each .npy, .pgm and .ppm image in FOLDER."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
for path in sorted(p for p in Path(sys.argv[2]).iterdir() if p.suffix in (".npy", ".pgm", ".ppm")):
    header = re.match(rb"P[56]\s+(?:#.*\s+)*(\d+)\s+(\d+)\s+255\s", data := path.read_bytes())
    pixels = np.frombuffer(data, np.uint8, offset=header.end()) if header else np.load(path)
    image = pixels.reshape(int(header[2]), int(header[1]), -1).transpose(2, 0, 1) if header else pixels
    print(path.name, names[session.run(["decision"], {"input": image[None]})[0][0]], sep="\t")
