// The hook: adapts VTM's objects to the engine's plain structs. See fastpart/engine/session.hpp for the order of calls.
#pragma once

#include <string>

class CodingStructure;
class Partitioner;
class PicHeader;
class Slice;
struct CodedCUInfo;
struct ComprCUCtx;
struct EncTestMode;
struct UnitArea;

namespace fastpart_hook
{
struct Options
{
  bool        enabled{ false };
  double      kappa{ 1.0 };
  double      targetRatio{ 0.0 };
  double      targetRatioHd{ 0.0 };
  std::string model;
  std::string trace;
  double      exploreSkip{ 0.0 };
  double      exploreKeep{ 0.0 };
  int         seed{ 1 };
  bool        chroma{ false };
  double      propagation{ 0.0 };
  double      propagationFineSamples{ 0.0 };
  int         nonLinearAlfLayers{ -1 };
  int         deeperLayers{ 0 };
};

// Starts the engine if the options ask for anything; ends the program with a message if they are wrong. samples: luma
// samples of a picture.
void configure(const Options &options, double samples);

// False: VTM runs as if the hook were not there.
extern bool active;

// Temporal layers, from 0 on, whose luma filters of the adaptive loop filter may be non-linear; below 0: as
// UseNonLinearAlfLuma says.
extern int nonLinearAlfLayers;

// Lets inter pictures of the first deeperLayers temporal layers split one level deeper than MaxMTTHierarchyDepth
// (ph_max_mtt_hierarchy_depth_inter_slice, H.266 7.4.3.8).
void deepen(PicHeader &header, const Slice &slice);

void ctuStart(const CodingStructure &cs, unsigned ctuRsAddr);
void ctuEnd(const CodingStructure &cs, const UnitArea &area);
void nodeEnter(const CodingStructure &cs, Partitioner &partitioner, const CodedCUInfo &related);
void nodeLeave();
// Asked last, after VTM's own checks said yes. A refused split clears its DID_*_SPLIT flag in ctx.
bool tryCandidate(const EncTestMode &mode, const CodingStructure &cs, Partitioner &partitioner, ComprCUCtx &ctx);
void modeResult(const CodingStructure &tested);
// After a child of a split; partial cost: of all its children so far. False: give the split up.
bool childDone(double partialCost, const UnitArea &child, bool mayStop);

// The adaptive loop filter of the picture uses AlfPairs. What that saves of linear filters' time is not worth counting.
void filtersMerged(bool nonLinear);

// Prints the counters and closes the trace; ends the program with a message if the trace is not whole.
void finish();
}   // namespace fastpart_hook
