#include "dep_quant.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "coefficient_scan.hpp"
#include "wide.hpp"

namespace fastpart {
namespace dep_quant_detail {

// One lane for each state.
typedef int64_t Costs __attribute__((vector_size(32)));
typedef int32_t Bits __attribute__((vector_size(16)));

constexpr int     kStates       = 4;
constexpr int     kIndices      = 4;    // that a coefficient may have, by their last two bits
constexpr int32_t kBit          = 1 << 15;
constexpr int     kLeastRegular = 4;    // bins that a coefficient may take
constexpr int     kManyLevels   = 51;   // a sum of levels above makes no difference; five of them fit into a byte
constexpr int64_t kImpossible   = std::numeric_limits<int64_t>::max() >> 2;

constexpr int kRices = 4, kEscapes = 64;

// What follows from sums over the template.
struct Tables {
  int32_t escape[kRices][kEscapes];       // bits of abs_remainder or dec_abs_level by Rice parameter: H.266, 9.3.3.11
  uint8_t significant[256], level[256];   // contexts, by the sum of Lanes::context
  uint8_t regular[256], bypass[256];      // Rice parameters, by the sum of levels: H.266, table 128
};

constexpr Tables tables()
{
  Tables t{};
  for (int rice = 0; rice < kRices; rice++)
    for (int value = 0; value < kEscapes; value++)
    {
      constexpr int kPrefix = 6;
      const int     prefix  = value >> rice;
      int           suffix  = 0;
      while (prefix >= kPrefix && prefix - kPrefix + 2 >= 2 << suffix) suffix++;
      t.escape[rice][value] = kBit * (rice + (prefix < kPrefix ? prefix + 1 : kPrefix + 2 * suffix));
    }
  for (int i = 0; i < 256; i++)
  {
    const int sum = i >> 3, number = i & 7;
    t.significant[i] = uint8_t((sum + 1) >> 1 < 3 ? (sum + 1) >> 1 : 3);
    t.level[i]       = uint8_t(sum < number ? 0 : sum - number < 4 ? sum - number : 4);
    const int over   = i < 20 ? 0 : i - 20;
    t.regular[i]     = over < 7 ? 0 : over < 14 ? 1 : over < 28 ? 2 : 3;
    t.bypass[i]      = i < 7 ? 0 : i < 14 ? 1 : i < 28 ? 2 : 3;
  }
  return t;
}

constexpr Tables kTables = tables();

// What a level, 255 at most, is in every lane.
struct alignas(16) Lanes {
  uint8_t level[kSubBlock];
  uint8_t sum[kSubBlock];            // of a template's levels
  uint8_t context[kSubBlock];        // their sum, of which at most 4 or 5 counts, times 8, and their number
  int32_t bins;                      // with contexts, besides the first
};

struct AllLanes {
  Lanes of[256];
};

constexpr uint8_t sum_of(int level) { return uint8_t(level < kManyLevels ? level : kManyLevels); }
constexpr uint8_t context_of(int level) { return uint8_t(((level < 4 ? level : 4 + (level & 1)) << 3) + (level != 0)); }

constexpr AllLanes all_lanes()
{
  AllLanes lanes{};
  for (int level = 0; level < 256; level++)
  {
    for (int i = 0; i < kSubBlock; i++)
    {
      lanes.of[level].level[i]   = uint8_t(level);
      lanes.of[level].sum[i]     = sum_of(level);
      lanes.of[level].context[i] = context_of(level);
    }
    lanes.of[level].bins = level < 2 ? level : 3;
  }
  return lanes;
}

constexpr AllLanes kLanes = all_lanes();

FASTPART_INLINE const Lanes& lanes_of(int32_t level) { return kLanes.of[std::min(level, 255)]; }

FASTPART_INLINE Bytes bytes(const uint8_t (&lanes)[kSubBlock]) { return *reinterpret_cast<const Bytes*>(lanes); }

// A state of the quantiser with the path that leads to it.
struct alignas(64) State {
  Bytes          levels;             // of the sub-block
  Bytes          sums, contexts;     // over templates
  int32_t        bins;               // left of those with contexts
  uint8_t        coded;              // any level of the sub-block
  uint8_t        sub_block;          // context of its flag
  uint8_t        owners;             // of the sub-blocks before: a state, or kStates for none
  uint8_t        escape_zero;        // without contexts, what codes no level
  const int32_t* level;              // bits
};

struct States {
  State of[kStates];
  Costs cost;
  Bits  one, zero;                   // of a coefficient that is and is not there, without its level
  bool  bypass;                      // any of them without contexts
};

// A coded sub-block.
struct Record {
  Bytes sums, contexts;   // what its levels add to templates
  bool  any;
};

// The indices of a coefficient: levels, and what they add to the distortion that none has.
struct Indices {
  int64_t distortion[kIndices];
  int32_t level[kIndices];
  bool    escape;                    // some level is above 3
};

FASTPART_INLINE Indices indices_of(int32_t coefficient, const DepQuantScale& scale)
{
  const int64_t scaled = std::abs(coefficient) * scale.scale;
  const int32_t nearby = int32_t((scaled + scale.index_rounding) >> scale.index_shift);
  const int32_t lowest = std::max<int32_t>(1, std::min<int32_t>(scale.greatest, nearby));
  int64_t       added  = lowest * scale.step - scaled * scale.origin;
  Indices       indices;
  for (int32_t index = lowest; index < lowest + kIndices; index++, added += scale.step)
  {
    indices.distortion[index & 3] = (index * added + scale.rounding) >> scale.shift;
    indices.level[index & 3]      = (index + 1) >> 1;
  }
  indices.escape = lowest >= 4;
  return indices;
}

// The level and the state, plus one, that a path comes from: 0 is the start of a path, 5 to 8 the states before a sub-block
// that is skipped.
FASTPART_INLINE int64_t choice(int state, int32_t level) { return int64_t(state + 1) << 32 | uint32_t(level); }
FASTPART_INLINE int     state_of(int64_t choice) { return int(choice >> 32) - 1; }
FASTPART_INLINE int32_t level_of(int64_t choice) { return int32_t(choice); }

// The cheapest way into each state.
struct Ways {
  Costs cost, choice;
};

constexpr int kEven[kStates] = {0, 2, 1, 3};   // the state from which an even level leads to each

FASTPART_INLINE void keep(Ways& ways, const Costs& better, const Costs& cost, const Costs& choice)
{
  ways.cost   = better ? cost : ways.cost;
  ways.choice = better ? choice : ways.choice;
}

FASTPART_INLINE Bytes shuffled(const Bytes& bytes, const Bytes& from)
{
#ifdef __clang__
  Bytes result;
  for (int i = 0; i < kSubBlock; i++) result[i] = bytes[from[i]];
  return result;
#else
  return __builtin_shuffle(bytes, from);
#endif
}

FASTPART_INLINE int byte_of(const Bytes& bytes, int i) { return reinterpret_cast<const uint8_t*>(&bytes)[i]; }

// To a position within a sub-block.
FASTPART_INLINE void advance(State& now, const State& from, int32_t level, const CoefficientScan& scan, int inside)
{
  const Lanes& lanes   = lanes_of(level);
  const Bytes  reached = scan.reached[inside];
  const int    left    = from.bins - 1;
  now.levels           = from.levels | (bytes(lanes.level) & scan.itself[inside]);
  now.sums             = from.sums + (bytes(lanes.sum) & reached);
  now.contexts         = from.contexts + (bytes(lanes.context) & reached);
  now.bins             = left - (left < kLeastRegular ? 0 : lanes.bins);
  now.coded            = from.coded | (level != 0);
  now.sub_block        = from.sub_block;
  now.owners           = from.owners;
}

// What the coded sub-blocks leave for the templates of those that follow.
struct Records {
  Record  of[kSubBlocks][kStates];
  uint8_t owner_sets[2][kStates][kSubBlocks];   // whose record of a sub-block a state's path has; kStates: none
  uint8_t (*owners)[kSubBlocks] = owner_sets[0], (*owners_before)[kSubBlocks] = owner_sets[1];
};

// To the next sub-block, into state j.
FASTPART_INLINE void leave_sub_block(State& now, int j, const State& from, const Bytes& levels, const CoefficientScan& scan,
                                     int group, Records& records)
{
  const int groups = scan.size / scan.sub_block;
  Record&   record = records.of[group][j];
  uint64_t  halves[2];
  std::memcpy(halves, &levels, sizeof levels);
  record.any = (halves[0] | halves[1]) != 0;
  for (int k = 0; k < kSubBlock; k++)
  {
    record.sums[k]     = sum_of(levels[k]);
    record.contexts[k] = context_of(levels[k]);
  }
  uint8_t* owners = records.owners[j];
  if (from.owners < kStates)
    std::memcpy(owners, records.owners_before[from.owners], groups);
  else
    std::memset(owners, kStates, groups);
  owners[group] = uint8_t(j);

  Bytes sums{}, contexts{};
  int   coded = 0;
  for (int b = 0; b < kSubBlocksBeyond; b++)
  {
    const int at = scan.beyond_of[group - 1][b];
    if (at < 0 || owners[at] == kStates) continue;
    const Record& there = records.of[at][owners[at]];
    if (!there.any) continue;
    coded |= b < 2;
    for (int k = 0; k < kTemplate; k++)
    {
      if (!scan.beyond[b].any[k]) continue;
      sums += shuffled(there.sums, scan.beyond[b].from[k]) & scan.beyond[b].present[k];
      contexts += shuffled(there.contexts, scan.beyond[b].from[k]) & scan.beyond[b].present[k];
    }
  }
  now.levels    = Bytes{};
  now.sums      = sums;
  now.contexts  = contexts;
  now.bins      = from.bins;
  now.coded     = 0;
  now.sub_block = uint8_t(coded);
  now.owners    = uint8_t(j);
}

// Rice parameter at a position; VTM takes it for 0 at the first one of a sub-block.
FASTPART_INLINE int rice_of(const State& state, const CoefficientScan& scan, int inside)
{
  if (inside == scan.sub_block - 1) return 0;
  const int sum = byte_of(state.sums, inside);
  return state.bins >= kLeastRegular ? kTables.regular[sum] : kTables.bypass[sum];
}

FASTPART_INLINE int32_t level_bits(const int32_t* bits, const int32_t* escape, int32_t level)
{
  if (level < 4) return bits[level];
  const int32_t value = (level - 4) >> 1;
  return bits[level - 2 * value] + escape[std::min(value, kEscapes - 1)];
}

// Bits of any level, in any state, that are not those of the coefficient being there.
inline int32_t any_level_bits(const State& state, const CoefficientScan& scan, int inside, int32_t level)
{
  const int32_t* escape = kTables.escape[rice_of(state, scan, inside)];
  if (state.bins >= kLeastRegular) return level_bits(state.level, escape, level);
  return escape[level <= state.escape_zero ? level - 1 : std::min(level, kEscapes - 1)];
}

// Of a path that starts at a position.
FASTPART_INLINE Ways first_ways(const Indices& x, int32_t last_bits, const DepQuantRates& rates)
{
  const int64_t even = x.distortion[0] + last_bits + level_bits(rates.level[0], kTables.escape[0], x.level[0]);
  const int64_t odd  = x.distortion[2] + last_bits + level_bits(rates.level[0], kTables.escape[0], x.level[2]);
  return {Costs{even, kImpossible, odd, kImpossible},
          Costs{choice(-1, x.level[0]), choice(-1, 0), choice(-1, x.level[2]), choice(-1, 0)}};
}

// Into state 0 from 0 and 1, into 1 from 2 and 3, into 2 from 1 and 0, into 3 from 3 and 2, by an even level or none and by an
// odd one: QStateTransTable of H.266.
FASTPART_INLINE Ways ways_on(const States& s, const Indices& x, const CoefficientScan& scan, const CoefficientPosition& p)
{
  const int32_t* l = x.level;
  const int64_t* d = x.distortion;
  Bits           even_bits, odd_bits;
  if (!x.escape && !s.bypass)
  {
    even_bits = Bits{s.of[0].level[l[0]], s.of[2].level[l[3]], s.of[1].level[l[0]], s.of[3].level[l[3]]};
    odd_bits  = Bits{s.of[1].level[l[2]], s.of[3].level[l[1]], s.of[0].level[l[2]], s.of[2].level[l[1]]};
  }
  else
  {
    const auto bits = [&](int state, int k) { return any_level_bits(s.of[state], scan, p.inside, l[k]); };
    even_bits       = Bits{bits(0, 0), bits(2, 3), bits(1, 0), bits(3, 3)};
    odd_bits        = Bits{bits(1, 2), bits(3, 1), bits(0, 2), bits(2, 1)};
  }
  even_bits += Bits{s.one[0], s.one[2], s.one[1], s.one[3]};
  odd_bits += Bits{s.one[1], s.one[3], s.one[0], s.one[2]};
  const Costs from_even = {s.cost[0], s.cost[2], s.cost[1], s.cost[3]};
  const Costs from_odd  = {s.cost[1], s.cost[3], s.cost[0], s.cost[2]};
  const Costs even = from_even + Costs{d[0], d[3], d[0], d[3]} + __builtin_convertvector(even_bits, Costs);
  const Costs odd  = from_odd + Costs{d[2], d[1], d[2], d[1]} + __builtin_convertvector(odd_bits, Costs);
  Costs       none = from_even + __builtin_convertvector(Bits{s.zero[0], s.zero[2], s.zero[1], s.zero[3]}, Costs);
  // The last coefficient of a sub-block that is coded and has none so far cannot be zero.
  if (p.last)
    for (int j = 0; j < kStates; j++)
      if (const State& from = s.of[kEven[j]]; from.bins >= kLeastRegular && !from.coded) none[j] = kImpossible;
  Ways ways = {even, Costs{choice(0, l[0]), choice(2, l[3]), choice(1, l[0]), choice(3, l[3])}};
  keep(ways, none < ways.cost, none, Costs{choice(0, 0), choice(2, 0), choice(1, 0), choice(3, 0)});
  // Of equal costs the lower state's.
  keep(ways, odd - Costs{0, 0, 1, 1} < ways.cost, odd,
       Costs{choice(1, l[2]), choice(3, l[1]), choice(0, l[2]), choice(2, l[1])});
  return ways;
}

// Past a sub-block without coefficients.
FASTPART_INLINE Ways ways_past(const States& s, const DepQuantRates& rates)
{
  const auto bits = [&](int j) { return int64_t(rates.sub_block[s.of[j].sub_block][0]); };
  return {s.cost + Costs{bits(0), bits(1), bits(2), bits(3)}, Costs{choice(4, 0), choice(5, 0), choice(6, 0), choice(7, 0)}};
}

// Bits of the position after p, by the sums over its template.
FASTPART_INLINE void prepare(States& now, const CoefficientScan& scan, const CoefficientPosition& p,
                             const CoefficientPosition& next, const DepQuantRates& rates)
{
  int32_t one[kStates], zero[kStates];
  now.bypass = false;
#pragma GCC unroll 4
  for (int j = 0; j < kStates; j++)
  {
    State& state = now.of[j];
    if (state.bins >= kLeastRegular)
    {
      const int       context = byte_of(state.contexts, next.inside);
      const uint32_t* bits    = rates.significant[std::max(j - 1, 0)][p.next_significant + kTables.significant[context]];
      state.level             = rates.level[p.next_level + kTables.level[context]];
      zero[j]                 = int32_t(bits[0]);
      one[j]                  = int32_t(bits[1]);
      if (next.first)
      {
        zero[j] += int32_t(rates.sub_block[state.sub_block][1]);
        one[j] += int32_t(rates.sub_block[state.sub_block][1]);
      }
      else if (next.last && !state.coded)
        one[j] = 0;
    }
    else
    {
      const int rice = rice_of(state, scan, next.inside);
      // VTM leaves this as it is at the first position of a sub-block.
      if (p.inside != 0) state.escape_zero = uint8_t((j < 2 ? 1 : 2) << rice);
      zero[j]    = kTables.escape[rice][state.escape_zero];
      one[j]     = kBit;
      now.bypass = true;
    }
  }
  now.one  = Bits{one[0], one[1], one[2], one[3]};
  now.zero = Bits{zero[0], zero[1], zero[2], zero[3]};
}

}  // namespace dep_quant_detail

using namespace dep_quant_detail;

int last_above(const DepQuantBlock& block, int last, int32_t threshold, const int32_t* coefficients)
{
  const CoefficientScan& scan    = coefficient_scan(block.log2_width, block.log2_height, block.luma);
  const int              columns = std::min(scan.width, 32), rows = scan.size / columns;
  int                    any     = 0;
  for (int y = 0; y < rows; y++)
    for (int x = 0; x < columns; x++) any |= std::abs(coefficients[y * scan.width + x]) > threshold;
  if (any == 0) return -1;
  int i = std::min(last, scan.size - 1);
  while (i >= 0 && std::abs(coefficients[scan.positions[i].raster]) <= threshold) i--;
  return i;
}

FASTPART_WIDE
int64_t dep_quant(const DepQuantBlock& block, int last, const DepQuantScale& scale, const DepQuantRates& rates,
                  const int32_t* coefficients, int32_t* levels)
{
  const CoefficientScan& scan = coefficient_scan(block.log2_width, block.log2_height, block.luma);
  int64_t                choices[kSubBlocks * kSubBlock][kStates];
  States                 sets[3];
  Records                records;
  States *               now = &sets[0], *before = &sets[1], *skipping = &sets[2];
  // A path that starts; one bin more, as the first coefficient is not counted.
  const State start = {Bytes{}, Bytes{}, Bytes{}, block.regular_bins + 1, 1, 0, kStates, 0, rates.level[0]};
  for (States& set : sets)
  {
    set.cost = Costs{kImpossible, kImpossible, kImpossible, kImpossible};
    for (State& state : set.of) state = start;
  }
  Ways ways;
  for (int i = last; i >= 0; i--)
  {
    const CoefficientPosition& p = scan.positions[i];
    std::swap(now, before);
    const Indices indices = indices_of(coefficients[p.raster], scale);
    const Ways    first   = first_ways(indices, rates.last_x[p.x] + rates.last_y[p.y], rates);
    if (i == last)
      ways = first;
    else
    {
      ways = ways_on(*before, indices, scan, p);
      if (p.last)
      {
        const Ways past = ways_past(*skipping, rates);
        keep(ways, past.cost < ways.cost, past.cost, past.choice);
      }
      keep(ways, first.cost < ways.cost, first.cost, first.choice);
    }
    std::memcpy(choices[i], &ways.choice, sizeof choices[i]);
    if (i == 0) break;

    now->cost = ways.cost;
    if (p.inside == 0) std::swap(records.owners, records.owners_before);
#pragma GCC unroll 4
    for (int j = 0; j < kStates; j++)
    {
      const int     state = state_of(choices[i][j]);
      const int32_t level = level_of(choices[i][j]);
      const State&  from  = state < 0 ? start : state < kStates ? before->of[state] : skipping->of[state - kStates];
      if (p.inside != 0)
        advance(now->of[j], from, level, scan, p.inside);
      else
      {
        Bytes coded{};
        if (state < kStates) coded = from.levels | (bytes(lanes_of(level).level) & scan.itself[0]);
        leave_sub_block(now->of[j], j, from, coded, scan, i / scan.sub_block, records);
        if (state < 0) now->of[j].bins--;
      }
    }
    prepare(*now, scan, p, scan.positions[i - 1], rates);
    if (p.first) std::swap(before, skipping);
  }

  // A path has to cost less than no coefficient at all.
  int     state    = -1;
  int64_t cheapest = 0;
  for (int j = 0; j < kStates; j++)
    if (ways.cost[j] < cheapest)
    {
      cheapest = ways.cost[j];
      state    = j;
    }
  int64_t sum = 0;
  for (int i = 0; state >= 0; i++)
  {
    const int     at    = scan.positions[i].raster;
    const int32_t level = level_of(choices[i][state]);
    levels[at]          = coefficients[at] < 0 ? -level : level;
    sum += level;
    state = state_of(choices[i][state]);
    if (state >= kStates)
    {
      i += scan.sub_block - 1;
      state -= kStates;
    }
  }
  return sum;
}

}  // namespace fastpart
