#include "FastpartHook.h"
#include "FastpartDepQuant.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>

#include "EncModeCtrl.h"
#include "CommonLib/CodingStructure.h"
#include "CommonLib/Picture.h"
#include "CommonLib/UnitPartitioner.h"
#include "CommonLib/UnitTools.h"

#include "FastpartPlane.h"
#include "fastpart/engine/session.hpp"
#include "fastpart/engine/steering.hpp"

namespace fastpart
{
extern const unsigned char default_model_data[];
extern const std::size_t   default_model_size;
}   // namespace fastpart

namespace fastpart_hook
{
bool active = false;
int  nonLinearAlfLayers = -1;

namespace
{
using fastpart::Candidate;

std::unique_ptr<fastpart::Session> session;
int                                currentPoc   = MAX_INT;
int                                deeperLayers = 0;

[[noreturn]] void fail(const std::exception &error)
{
  std::fprintf(stderr, "fastpart: %s\n", error.what());
  std::exit(EXIT_FAILURE);
}

Candidate candidateOf(const EncTestMode &mode)
{
  using Amvr = EncTestMode::AmvrSearchMode;
  switch (mode.type)
  {
  case ETM_SPLIT_QT:   return Candidate::SplitQt;
  case ETM_SPLIT_BT_H: return Candidate::SplitBtH;
  case ETM_SPLIT_BT_V: return Candidate::SplitBtV;
  case ETM_SPLIT_TT_H: return Candidate::SplitTtH;
  case ETM_SPLIT_TT_V: return Candidate::SplitTtV;
  case ETM_INTRA:      return Candidate::Intra;
  case ETM_INTER_ME:
    switch (mode.getAmvrSearchMode())
    {
    case Amvr::NONE:     return Candidate::InterMe;
    case Amvr::FULL_PEL: return Candidate::AmvrFull;
    case Amvr::HALF_PEL: return Candidate::AmvrHalf;
    default:             return Candidate::AmvrFour;
    }
  default: return Candidate::Other;
  }
}

fastpart::Neighbour neighbour(const CodingUnit *cu, ChannelType channel)
{
  fastpart::Neighbour n;
  if (cu)
  {
    const CompArea &block = cu->block(channel);
    n.present     = true;
    n.skip        = cu->skip;
    n.intra       = CU::isIntra(*cu);
    n.log2_width  = int8_t(floorLog2(block.width << getChannelTypeScaleX(channel, cu->chromaFormat)));
    n.log2_height = int8_t(floorLog2(block.height << getChannelTypeScaleY(channel, cu->chromaFormat)));
    n.qt_depth    = int8_t(cu->qtDepth);
    n.mt_depth    = int8_t(cu->mtDepth);
  }
  return n;
}

fastpart::BestSoFar bestSoFar(const ComprCUCtx &ctx)
{
  fastpart::BestSoFar b;
  if (ctx.bestCS && ctx.bestCU && ctx.bestCS->cost < MAX_DOUBLE)
  {
    const CodingStructure &cs = *ctx.bestCS;
    const CodingUnit &     cu = *ctx.bestCU;
    b.present      = true;
    b.cost         = cs.cost + (cs.useDbCost ? cs.costDbOffset : 0);
    b.bits         = double(cs.fracBits);
    b.coding_units = int(cs.cus.size());
    b.skip         = cu.skip;
    b.intra        = CU::isIntra(cu);
    b.affine       = cu.affine;
    b.geo          = cu.geoFlag;
    b.mmvd         = cu.mmvdSkip;
    b.root_cbf     = cu.rootCbf;
    b.amvr         = cu.imv;
    if (cu.firstPU && !b.intra)
    {
      b.merge = cu.firstPU->mergeFlag;
      b.ciip  = cu.firstPU->ciipFlag;
      b.bi    = cu.firstPU->interDir == 3;
    }
  }
  return b;
}
}   // namespace

void configure(const Options &options, double samples)
{
  nonLinearAlfLayers = options.nonLinearAlfLayers;
  deeperLayers       = options.deeperLayers;
  if (!options.enabled && options.trace.empty() && options.exploreSkip == 0)
  {
    return;
  }
  fastpart::Settings settings;
  settings.enabled      = options.enabled;
  settings.kappa        = options.kappa;
  settings.model_path   = options.model;
  settings.trace_path   = options.trace;
  settings.explore_skip = options.exploreSkip;
  settings.explore_keep = options.exploreKeep;
  settings.seed         = uint64_t(options.seed);
  try
  {
    settings.target = fastpart::target_of_size(options.targetRatio, options.targetRatioHd, samples);
    session = std::make_unique<fastpart::Session>(settings, fastpart::default_model_data, fastpart::default_model_size);
  }
  catch (const std::exception &error)
  {
    fail(error);
  }
  static const DepQuant engine = { fastpart::last_above, fastpart::dep_quant };
  depQuant = &engine;
  active   = true;
}

void deepen(PicHeader &header, const Slice &slice)
{
  if (deeperLayers <= 0 || slice.isIntra())
  {
    return;
  }
  const SPS &sps    = *slice.getSPS();
  const bool deeper = int(slice.getTLayer()) < deeperLayers;
  if (!sps.getSplitConsOverrideEnabledFlag())
  {
    fail(std::runtime_error("FastPartDeeperLayers needs EnablePartitionConstraintsOverride, which is 0; set it to 1"));
  }
  if (deeper && !header.getSplitConsOverrideFlag())
  {
    header.setSplitConsOverrideFlag(true);
    header.setMinQTSizes(sps.getMinQTSizes());
    header.setMaxMTTHierarchyDepths(sps.getMaxMTTHierarchyDepths());
    header.setMaxBTSizes(sps.getMaxBTSizes());
    header.setMaxTTSizes(sps.getMaxTTSizes());
  }
  // VTM has one header for all pictures, which still says what the last one did.
  constexpr unsigned INTER = 1;
  header.setMaxMTTHierarchyDepth(INTER, sps.getMaxMTTHierarchyDepth() + (deeper ? 1 : 0));
}

void ctuStart(const CodingStructure &cs, unsigned ctuRsAddr)
{
  const Slice &slice = *cs.slice;
  if (ctuRsAddr == 0 || slice.getPOC() != currentPoc)
  {
    currentPoc         = slice.getPOC();
    const CPelBuf luma = cs.picture->getOrigBuf(COMPONENT_Y);
    session->begin_picture(currentPoc, slice.getSliceQp(), int(slice.getTLayer()), slice.isIntra(), plane(luma),
                           int(luma.width), int(luma.height));
  }
}

void ctuEnd(const CodingStructure &cs, const UnitArea &area)
{
  const UnitArea inside = clipArea(area, *cs.picture);
  for (const CodingUnit &cu: cs.traverseCUs(CS::getArea(cs, inside, ChannelType::LUMA), ChannelType::LUMA))
  {
    session->coding_unit(cu.lx(), cu.ly(), int(cu.lwidth()), int(cu.lheight()));
  }
  try
  {
    session->end_ctu();
  }
  catch (const std::exception &error)
  {
    fail(error);
  }
}

void nodeEnter(const CodingStructure &cs, Partitioner &partitioner, const CodedCUInfo &related)
{
  const Slice &     slice   = *cs.slice;
  const ChannelType channel = partitioner.chType;
  const Position    corner  = cs.area.block(channel).pos();

  fastpart::NodeGeometry node;
  node.poc          = slice.getPOC();
  node.x            = cs.area.lx();
  node.y            = cs.area.ly();
  node.width        = int(cs.area.lwidth());
  node.height       = int(cs.area.lheight());
  node.qp           = int8_t(slice.getSliceQp());
  node.temporal_id  = int8_t(slice.getTLayer());
  node.intra_slice  = slice.isIntra();
  node.chroma       = isChroma(channel);
  node.qt_depth     = int8_t(partitioner.currQtDepth);
  node.bt_depth     = int8_t(partitioner.currBtDepth);
  node.mt_depth     = int8_t(partitioner.currMtDepth);
  node.max_mt_depth = int8_t(cs.pcv->getMaxBtDepth(slice, channel) + partitioner.currImplicitBtDepth);
  node.child_index  = int8_t(partitioner.currPartIdx());
  node.forced       = partitioner.getImplicitSplit(cs) != CU_DONT_SPLIT;
  node.askable      = !node.forced
                 && (CS::isDualITree(cs) || (partitioner.treeType == TREE_D && partitioner.modeType == MODE_TYPE_ALL));
  if (node.askable)
  {
    node.left  = neighbour(cs.getCU(corner.offset(-1, 0), channel), channel);
    node.above = neighbour(cs.getCU(corner.offset(0, -1), channel), channel);
  }
  node.was_inter = related.isInter;
  node.was_intra = related.isIntra;
  node.was_skip  = related.isSkip;
  session->enter(node);
}

void nodeLeave()
{
  session->leave();
}

bool tryCandidate(const EncTestMode &mode, const CodingStructure &cs, Partitioner &partitioner, ComprCUCtx &ctx)
{
  const Candidate candidate = candidateOf(mode);
  fastpart::Plane original, reconstruction;
  if (fastpart::is_split(candidate) && isLuma(partitioner.chType) && ctx.bestCS && ctx.bestCS->cus.size() == 1)
  {
    original       = plane(cs.getOrgBuf(COMPONENT_Y));
    reconstruction = plane(static_cast<const CodingStructure *>(ctx.bestCS)->getRecoBuf(COMPONENT_Y));
  }
  if (session->consider(candidate, bestSoFar(ctx), original, reconstruction))
  {
    return true;
  }
  switch (candidate)
  {
  case Candidate::SplitQt:  ctx.set(DID_QUAD_SPLIT, false); break;
  case Candidate::SplitBtH: ctx.set(DID_HORZ_SPLIT, false); break;
  case Candidate::SplitBtV: ctx.set(DID_VERT_SPLIT, false); break;
  default:                  break;
  }
  return false;
}

void modeResult(const CodingStructure &tested)
{
  if (tested.cost < MAX_DOUBLE)
  {
    session->result(tested.cost + (tested.useDbCost ? tested.costDbOffset : 0));
  }
}

bool childDone(double partialCost, const UnitArea &child, bool mayStop)
{
  return session->child_done(partialCost, int(child.lwidth()), int(child.lheight()), mayStop);
}

void filtersMerged(bool nonLinear)
{
  if (nonLinear)
  {
    session->filters_merged();
  }
}

void finish()
{
  if (!session)
  {
    return;
  }
  try
  {
    session->finish();
  }
  catch (const std::exception &error)
  {
    fail(error);
  }
  static const char *const names[fastpart::kCandidates] = { "split_qt", "split_bt_h", "split_bt_v", "split_tt_h", "split_tt_v",
                                                            "continue", "intra", "amvr_full", "amvr_four", "amvr_half",
                                                            "inter_me", "other" };
  static const char *const layer_names[fastpart::kSteeringLayers] = { "tid0", "tid1", "tid2", "tid3", "tid4", "tid5", "intra" };
  const fastpart::Counters counters = session->counters();
  uint64_t                 decisions = 0, skips = 0;
  for (int i = 0; i < fastpart::kCandidates; i++)
  {
    decisions += counters.asked[i];
    skips += counters.skipped[i];
    if (counters.asked[i] > 0)
    {
      std::printf("fastpart: candidate=%s asked=%llu skipped=%llu\n", names[i], (unsigned long long) counters.asked[i],
                  (unsigned long long) counters.skipped[i]);
    }
  }
  if (const fastpart::Steering *steering = session->steering())
  {
    for (int layer = 0; layer < fastpart::kSteeringLayers; layer++)
    {
      const fastpart::Effort &effort = steering->efforts()[std::size_t(layer)];
      if (effort.pictures > 0)
      {
        std::printf("fastpart: layer=%s pictures=%.0f samples=%.0f filtered=%.0f search=%.0f controls=%.0f control_estimated=%.3f"
                    " control_search=%.0f",
                    layer_names[layer], effort.pictures, effort.samples, effort.filtered, effort.search, effort.controls,
                    effort.control_estimated, effort.control_search);
        for (int group = 0; group < fastpart::kGroups; group++)
        {
          std::printf(" skipped_%s=%.3f", fastpart::kGroupNames[group], effort.skipped[std::size_t(group)]);
        }
        std::printf("\n");
      }
    }
    std::printf("fastpart: estimated_ratio=%.4f\n", steering->share());
  }
  const double share = double(counters.engine_cycles) / double(counters.total_cycles);
  std::printf("fastpart: model=%08x decisions=%llu skips=%llu seconds=%.3f share=%.5f cycles_per_decision=%.0f\n",
              session->model_checksum(), (unsigned long long) decisions, (unsigned long long) skips,
              share * counters.total_seconds, share,
              decisions ? double(counters.engine_cycles) / double(decisions) : 0.0);
}
}   // namespace fastpart_hook
