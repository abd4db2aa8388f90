#include "propagation.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

namespace fastpart {
namespace propagation_detail {

constexpr double kLargestOffset = 6;   // of a QP, either way
// Squared quantiser step over the mean squared error that it leaves.
constexpr double kStepOverError = 30;
constexpr int    kSamples       = kMotionBlock * kMotionBlock;

void halve(std::vector<CodedPicture>& order, int pictures, int from, int to, int layer)
{
  if (to - from < 2) return;
  const int middle = (from + to) / 2;
  if (middle < pictures) order.push_back({middle, layer, from, to < pictures ? to : -1});
  halve(order, pictures, from, middle, layer + 1);
  halve(order, pictures, middle, to, layer + 1);
}

// Squared error of a block of a picture of this QP.
double coding_error(double qp)
{
  const double step = std::exp2((qp - 4) / 6 + (kMotionBits - 8));
  return step * step / kStepOverError * kSamples;
}

// What intra prediction may leave of the block at (x, y): the least of its variance and three times the squared steps from row
// to row or from column to column.
double intra_error(const Pyramid& picture, int x, int y)
{
  const Pyramid::Level& level = picture.levels().front();
  int64_t               sum = 0, squares = 0, down = 0, across = 0;
  for (int j = 0; j < kMotionBlock; j++)
  {
    const int16_t* row   = level.at(x, y + j);
    const int16_t* above = row - level.stride;
    for (int i = 0; i < kMotionBlock; i++)
    {
      sum += row[i];
      squares += row[i] * row[i];
      down += (row[i] - above[i]) * (row[i] - above[i]);
      across += (row[i] - row[i - 1]) * (row[i] - row[i - 1]);
    }
  }
  return std::min(double(squares) - double(sum) * double(sum) / kSamples, 3.0 * double(std::min(down, across)));
}

// How much of the error of its prediction a block keeps, by reverse water-filling: what prediction leaves far below the error
// of coding is not coded, and all is kept; what it leaves far above is coded anew, by intra prediction if that leaves less.
double kept(double left, double coding, double intra)
{
  const double share = coding / (coding + left);
  return left > intra ? share * (intra / left) * (intra / left) : share;
}

}  // namespace propagation_detail

using namespace propagation_detail;

std::vector<CodedPicture> group_order(int from, int gop, int pictures, bool intra)
{
  std::vector<CodedPicture> order;
  if (from + gop < pictures) order.push_back({from + gop, 0, intra ? -1 : from, -1});
  halve(order, pictures, from, from + gop, 1);
  return order;
}

Propagation::Propagation(int width, int height, int bit_depth, int gop, int intra_period, double base_qp)
  : columns_(width / kMotionBlock), rows_(height / kMotionBlock), bit_depth_(bit_depth), gop_(gop),
    intra_period_(intra_period), base_qp_(base_qp)
{
}

void Propagation::add(Plane luma)
{
  pictures_.emplace_back(luma, columns_ * kMotionBlock, rows_ * kMotionBlock, bit_depth_);
  const int poc = int(pictures_.size()) - 1;
  if (poc > 0 && poc % gop_ == 0) search_group(poc - gop_);
}

void Propagation::search_group(int from)
{
  const bool intra = intra_period_ > 0 && (from + gop_) % intra_period_ == 0;
  for (const CodedPicture& coded : group_order(from, gop_, int(pictures_.size()), intra)) search(coded);
  for (int poc = from; poc < std::min(from + gop_, int(pictures_.size())); poc++) pictures_[size_t(poc)].clear();
}

void Propagation::search(const CodedPicture& coded)
{
  const Pyramid& picture = pictures_[size_t(coded.poc)];
  links_.push_back({coded.poc, {}});
  std::vector<Link>& links = links_.back().to;
  for (int reference : {coded.past, coded.future})
    if (reference >= 0)
      links.push_back({reference, coarse_motion(picture, pictures_[size_t(reference)], std::abs(reference - coded.poc)),
                       std::vector<float>(size_t(columns_) * size_t(rows_), 0.f)});

  const double coding = coding_error(base_qp_ + coded.layer);
  for (size_t i = 0; !links.empty() && i < links.front().share.size(); i++)
  {
    const int            x = int(i) % columns_ * kMotionBlock, y = int(i) / columns_ * kMotionBlock;
    const MotionSamples  block = block_at(picture, x, y);
    std::array<Match, 2> matches{};
    size_t               best = 0;
    for (size_t k = 0; k < links.size(); k++)
    {
      matches[k]         = match(block, x, y, pictures_[size_t(links[k].reference)], links[k].motion[i]);
      links[k].motion[i] = matches[k].motion;
      if (matches[k].error < matches[best].error) best = k;
    }
    const double intra = intra_error(picture, x, y);
    double       left  = double(matches[best].error);
    if (links.size() == 2)
    {
      MotionSamples mean;
      for (size_t s = 0; s < mean.size(); s++) mean[s] = (matches[0].prediction[s] + matches[1].prediction[s] + 1) / 2;
      // The coding errors of the two are independent, so that their mean has half of one, a quarter from each.
      const double left_by_both = double(squared_error(block, mean));
      if (left_by_both + coding / 2 < left + coding)
      {
        for (Link& link : links) link.share[i] = float(kept(left_by_both, coding, intra) / 4);
        continue;
      }
    }
    links[best].share[i] = float(kept(left, coding, intra));
  }
}

std::vector<std::vector<float>> Propagation::importance()
{
  const int last = int(pictures_.size()) - 1;
  if (last > 0 && last % gop_) search_group(last / gop_ * gop_);

  constexpr int                    kSide = 2 * kMotionBlock;   // half samples
  std::vector<std::vector<double>> worth(pictures_.size(), std::vector<double>(size_t(columns_) * size_t(rows_), 1.0));
  for (auto picture = links_.rbegin(); picture != links_.rend(); ++picture)
    for (const Link& link : picture->to)
      for (size_t i = 0; i < link.share.size(); i++)
      {
        const double amount = worth[size_t(picture->poc)][i] * link.share[i];
        const int    x      = std::clamp(int(i) % columns_ * kSide + link.motion[i].x, 0, (columns_ - 1) * kSide);
        const int    y      = std::clamp(int(i) / columns_ * kSide + link.motion[i].y, 0, (rows_ - 1) * kSide);
        const double right = double(x % kSide) / kSide, below = double(y % kSide) / kSide;
        const auto   give = [&](int column, int row, double part) {   // a part of 0 may lie outside
          if (part > 0) worth[size_t(link.reference)][size_t(row * columns_ + column)] += amount * part;
        };
        give(x / kSide, y / kSide, (1 - right) * (1 - below));
        give(x / kSide + 1, y / kSide, right * (1 - below));
        give(x / kSide, y / kSide + 1, (1 - right) * below);
        give(x / kSide + 1, y / kSide + 1, right * below);
      }

  std::vector<std::vector<float>> logarithms;
  for (const std::vector<double>& blocks : worth)
  {
    logarithms.emplace_back();
    for (double each : blocks) logarithms.back().push_back(float(std::log2(each)));
  }
  return logarithms;
}

QpOffsets::QpOffsets(std::vector<float> importance, int width, int height, double strength)
  : importance_(std::move(importance)), columns_(width / kMotionBlock), rows_(height / kMotionBlock), strength_(strength),
    mean_(importance_.empty() ? 0
                              : std::accumulate(importance_.begin(), importance_.end(), 0.0) / double(importance_.size()))
{
}

int QpOffsets::at(int x, int y, int width, int height) const
{
  double excess = 0;
  int    count  = 0;
  for (int row = y / kMotionBlock; row < std::min((y + height - 1) / kMotionBlock + 1, rows_); row++)
    for (int column = x / kMotionBlock; column < std::min((x + width - 1) / kMotionBlock + 1, columns_); column++, count++)
      excess += double(importance_[size_t(row * columns_ + column)]) - mean_;
  return count ? int(std::lround(std::clamp(-strength_ * excess / count, -kLargestOffset, kLargestOffset))) : 0;
}

}  // namespace fastpart
