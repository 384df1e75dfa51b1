/* A pruned network in C99, written by lightning-classprune.
@head@ */
#ifndef CLASSPRUNE_MODEL_H
#define CLASSPRUNE_MODEL_H

#include <stdint.h>

#define MODEL_INPUTS @inputs@ /* values of one sample: channel by channel, row by row */
#define MODEL_SCORES @scores@

/* Returns the class that is decided for one sample, and writes its scores. Not for two threads at once. */
int model_decide(const @kind@ input[MODEL_INPUTS], float scores[MODEL_SCORES]);

#endif
