// What later pictures inherit from each block of the source when it is coded in random access, and the QPs that suit it.
// After the macroblock tree of x264 (J. Garrett-Glaser, A novel macroblock-tree algorithm, 2009), for a hierarchy of
// pictures, and by what the distortion lets prediction leave instead of by intra against inter cost.
#pragma once

#include <cstdint>
#include <vector>

#include "motion.hpp"
#include "node.hpp"

namespace fastpart {

// A picture of a group whose halves are halved again and again. References by POC, -1 if none.
struct CodedPicture {
  int poc, layer, past, future;
};

// The pictures after POC `from` up to from + gop, of those that there are, in coding order: the last first. gop: a power of
// two. intra: the last of a whole group is an intra picture.
std::vector<CodedPicture> group_order(int from, int gop, int pictures, bool intra);

class Propagation {
 public:
  // Luma of width x height samples; groups of gop pictures, a power of two, an intra picture every intra_period, or the first
  // alone if that is not above 0; pictures at base_qp and one more for each layer.
  Propagation(int width, int height, int bit_depth, int gop, int intra_period, double base_qp);
  // The next picture in display order. Motion is searched whenever a group is complete.
  void add(Plane luma);
  // After the last, per picture: log2 of how many blocks' distortion a change of each block's is worth, its own and that of
  // all that is predicted from it. Blocks of kMotionBlock in raster order; those of which the picture holds a part left out.
  std::vector<std::vector<float>> importance();

 private:
  struct Link {                                   // of a picture to one of its references
    int                 reference;
    std::vector<Motion> motion;                   // by block, half samples
    std::vector<float>  share;                    // of the block's worth that its prediction is worth
  };
  struct Links { int poc; std::vector<Link> to; };

  int                  columns_, rows_, bit_depth_, gop_, intra_period_;
  double               base_qp_;
  std::vector<Pyramid> pictures_;                 // by POC, empty where no longer needed
  std::vector<Links>   links_;                    // in coding order

  void search_group(int from);
  void search(const CodedPicture& coded);
};

// QP offsets within a picture of width x height luma samples, of this importance, as above.
class QpOffsets {
 public:
  QpOffsets(std::vector<float> importance, int width, int height, double strength);
  // Of the samples from (x, y) on: -strength for every doubling of their mean importance against the picture's.
  int at(int x, int y, int width, int height) const;

 private:
  std::vector<float> importance_;
  int                columns_, rows_;
  double             strength_, mean_;
};

}  // namespace fastpart
