#include "trace.hpp"

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "checksum.hpp"

namespace fastpart {

TraceWriter::~TraceWriter()
{
  if (file_) std::fclose(file_);
}

void TraceWriter::open(const std::string& path)
{
  path_ = path;
  file_ = std::fopen(path.c_str(), "wb");
  if (!file_) throw std::runtime_error("trace file " + path + ": cannot be created (" + std::strerror(errno) + ")");
  std::string names;
  for (const std::string& name : feature_names()) names += (names.empty() ? "" : "\n") + name;
  std::string header = "FPTRACE1";
  for (uint32_t value : {uint32_t(sizeof(TraceRecord)), uint32_t(kFeatures), uint32_t(names.size())})
  {
    header.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  header += names;
  const uint32_t crc = crc32(header.data(), header.size());
  header.append(reinterpret_cast<const char*>(&crc), sizeof crc);
  if (std::fwrite(header.data(), 1, header.size(), file_) != header.size())
  {
    throw std::runtime_error("trace file " + path_ + ": " + std::strerror(errno));
  }
  block_.reserve(kRecordsPerBlock);
}

void TraceWriter::add(const TraceRecord& record)
{
  block_.push_back(record);
  if (block_.size() == kRecordsPerBlock) flush();
}

void TraceWriter::flush()
{
  if (block_.empty()) return;
  const uint32_t count = uint32_t(block_.size());
  uint32_t       crc   = crc32(&count, sizeof count);
  crc                  = crc32(block_.data(), block_.size() * sizeof(TraceRecord), crc);
  const bool written   = std::fwrite("FPB1", 1, 4, file_) == 4 && std::fwrite(&count, sizeof count, 1, file_) == 1 &&
                       std::fwrite(block_.data(), sizeof(TraceRecord), count, file_) == count &&
                       std::fwrite(&crc, sizeof crc, 1, file_) == 1 && std::fflush(file_) == 0;
  block_.clear();
  if (!written) throw std::runtime_error("trace file " + path_ + ": " + std::strerror(errno));
}

void TraceWriter::close()
{
  if (!file_) return;
  flush();
  const int status = std::fclose(file_);
  file_            = nullptr;
  if (status != 0) throw std::runtime_error("trace file " + path_ + ": " + std::strerror(errno));
}

}  // namespace fastpart
