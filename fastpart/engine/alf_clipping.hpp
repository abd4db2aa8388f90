// The search for clipping values of a filter of the adaptive loop filter: many small systems of equations.
#pragma once

#include <vector>

#include "alf.hpp"

namespace fastpart {

constexpr int kAlfMostCoefficients = alf_coefficients(3);

// Sums of a class as in AlfSums, to read.
struct AlfStatistics {
  const double* with_target;
  const double* products;
  double        target;
  int           coefficients;
};

// One coefficient gets another clipping value.
struct AlfTry { int coefficient, clip; };

// Squared error of the best filter for each try, the other coefficients clipped by `clips`; none if a system is singular.
// In double precision, with the operations and their order of VTM's Cholesky decomposition.
std::vector<double> alf_errors(const AlfStatistics& statistics, const int* clips, const std::vector<AlfTry>& tries);

}  // namespace fastpart
