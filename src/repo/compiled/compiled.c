/** All that is compiled at start, in one, since each run of the compiler costs as much again in time and memory. */
#include "../k256/verify.c"
#include "../heights/sha256.c"
