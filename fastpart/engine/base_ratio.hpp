// How much of stock's time a configuration takes by itself, without skips.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace fastpart {

// What options save goes with how much there is to search, more than with the QP: shares of stock's time by the time that
// the configuration takes without skips. Pictures with little to search save most.
class BaseRatio {
 public:
  // pairs: "time:share,time:share", the virtual clock's microseconds per luma sample of inter pictures, ascending; empty:
  // 1 everywhere. Throws std::runtime_error for any other text.
  explicit BaseRatio(const std::string& pairs);
  // Linear in ln of the time between two pairs, constant outside.
  double at(double microseconds_per_sample) const;

 private:
  std::vector<std::pair<double, double>> pairs_;   // ln of time, share
};

}  // namespace fastpart
