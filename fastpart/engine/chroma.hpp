// How fine chroma should be coded, from the source alone.
#pragma once

#include "node.hpp"

namespace fastpart {

// A picture of 4:2:0.
struct PicturePlanes {
  Plane luma, cb, cr;
};

// How much there is to code in the chroma planes of a clip, against luma.
class ChromaDetail {
 public:
  // A picture and the one that follows it, null if none does; width and height of luma.
  void add(const PicturePlanes& picture, const PicturePlanes* next, int width, int height);
  // Cb and Cr together over luma: geometric mean of the ratio of mean absolute Laplacians and of that of mean absolute
  // differences to the next picture. The first alone where luma does not change, 0 where it has no detail.
  double ratio() const;

 private:
  struct Sums { double luma = 0, chroma = 0; };
  Sums spatial_, temporal_;
};

// The offset of the chroma QP that suits (6Y+U+V)/8 at this base QP, 0 or below: chroma is a quarter of that
// measure, and where it has little detail, or luma few bits, it is a far smaller part of the rate. Fitted to training
// clips for encodes of qp_increment(offset) more, which gives back the rate that finer chroma takes
// (timing/results/levers.md). Down to -18: more than a picture parameter set can hold, -12.
int chroma_qp_offset(double detail_ratio, int qp);

// By how much to raise the base QP with this offset of the chroma QP, so that the rate stays that of no offset: a QP
// is 9 to 13 % of the rate, offsets above -3 take less than half of that.
int qp_increment(int chroma_qp_offset);

}  // namespace fastpart
