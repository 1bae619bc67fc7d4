/** All that is compiled at start. */
#include "../k256/verify.c"
#include "../heights/sha256.c"
