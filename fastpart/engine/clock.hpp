// A cheap monotonic counter for labels and counters; decisions never see it.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#else
#include <chrono>
#endif

namespace fastpart {

inline uint64_t cycles()
{
#if defined(__x86_64__)
  return __rdtsc();
#else
  return uint64_t(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

}  // namespace fastpart
