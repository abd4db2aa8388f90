#include "base_ratio.hpp"

#include <cmath>
#include <sstream>
#include <stdexcept>

namespace fastpart {

BaseRatio::BaseRatio(const std::string& pairs)
{
  std::istringstream text(pairs);
  bool               more = !pairs.empty();
  while (more)
  {
    double time = 0, share = 0;
    char   colon = 0, comma = 0;
    const bool read = (text >> time >> colon >> share) && colon == ':' && time > 0 && share > 0 && share <= 2;
    more            = bool(text >> comma);
    if (!read || (more && comma != ',') || (!pairs_.empty() && std::log(time) <= pairs_.back().first))
      throw std::runtime_error("FastPartBaseRatio is '" + pairs + "', wanted pairs of time per sample and share of " +
                               "stock's time by ascending time, such as 5:0.5,50:0.8");
    pairs_.emplace_back(std::log(time), share);
  }
}

double BaseRatio::at(double microseconds_per_sample) const
{
  if (pairs_.empty()) return 1;
  const double x = std::log(microseconds_per_sample);
  if (!(x > pairs_.front().first)) return pairs_.front().second;
  for (size_t i = 1; i < pairs_.size(); i++)
  {
    const auto& [low, before] = pairs_[i - 1];
    const auto& [high, share] = pairs_[i];
    if (x < high) return before + (share - before) * (x - low) / (high - low);
  }
  return pairs_.back().second;
}

}  // namespace fastpart
