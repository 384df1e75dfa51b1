/* A pruned network in C99, written by lightning-classprune.
@head@ */
#include "model.h"

@constants@
@kernels@
int model_decide(const @kind@ input[MODEL_INPUTS], float scores[MODEL_SCORES])
{
@body@
}
