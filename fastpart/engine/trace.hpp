// Binary trace of the questions that were followed up, for training.
//
// File: header, then blocks, little endian.
//   header  char magic[8] = "FPTRACE1"; u32 record_size; u32 feature_count; u32 names_size;
//           char names[names_size] (feature names joined by '\n'); u32 crc32 of all header bytes before it
//   block   char magic[4] = "FPB1"; u32 record_count; record_count records; u32 crc32 of count and records
// A file that was cut short loses only its last block.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "features.hpp"

namespace fastpart {

enum TraceFlag : uint8_t {
  kOnPath        = 1,   // the node is part of the final coding tree
  kWon           = 2,   // the candidate is the node's final choice
  kPolicySkip    = 4,   // the policy would have skipped it; kept by exploration
};

#pragma pack(push, 1)
struct TraceRecord {
  uint64_t start;          // time stamp of the question: those asked before start + cycles are about its own subtree
  int32_t  poc;
  uint16_t x, y;           // luma samples
  uint8_t  candidate;      // Candidate
  uint8_t  flags;          // TraceFlag
  uint8_t  log2_width, log2_height;
  float    regret;         // bits by which the node is better with the candidate than without; 0 if it did not win
  float    cap;            // bits at stake at the closest ancestor: no choice below can lose more; +inf at a root
  float    cycles;         // time-stamp cycles from the question to the candidate's end
  float    features[kFeatures];
};
#pragma pack(pop)

class TraceWriter {
 public:
  ~TraceWriter();
  // Throws std::runtime_error if the file cannot be created.
  void open(const std::string& path);
  bool active() const { return file_ != nullptr; }
  void add(const TraceRecord& record);
  // Writes what is left and closes; throws std::runtime_error if the disk refused any of it.
  void close();

 private:
  static constexpr size_t  kRecordsPerBlock = 4096;
  std::FILE*               file_ = nullptr;
  std::string              path_;
  std::vector<TraceRecord> block_;
  void                     flush();
};

}  // namespace fastpart
