// FASTPART_WIDE: a function for the vector unit of the processor at hand, whatever the program was built for; what it calls has
// to be FASTPART_INLINE for that.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define FASTPART_WIDE   __attribute__((target_clones("avx2", "default")))
#define FASTPART_INLINE inline __attribute__((always_inline))
#else
#define FASTPART_WIDE
#define FASTPART_INLINE inline
#endif
