#include "checksum.hpp"

#include <array>

namespace fastpart {
namespace checksum_detail {

constexpr int kSlices = 4;
using Tables = std::array<std::array<uint32_t, 256>, kSlices>;

// tables[s][b]: effect of byte b that is followed by s zero bytes.
constexpr Tables make_tables()
{
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; byte++)
  {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0u);
    tables[0][byte] = crc;
  }
  for (int slice = 1; slice < kSlices; slice++)
    for (uint32_t byte = 0; byte < 256; byte++)
    {
      const uint32_t crc   = tables[slice - 1][byte];
      tables[slice][byte] = (crc >> 8) ^ tables[0][crc & 255];
    }
  return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace checksum_detail

uint32_t crc32(const void* data, size_t size, uint32_t seed)
{
  const auto& tables = checksum_detail::kTables;
  const auto* byte   = static_cast<const uint8_t*>(data);
  uint32_t    crc    = ~seed;
  for (; size >= 4; size -= 4, byte += 4)
  {
    crc ^= uint32_t(byte[0]) | uint32_t(byte[1]) << 8 | uint32_t(byte[2]) << 16 | uint32_t(byte[3]) << 24;
    crc = tables[3][crc & 255] ^ tables[2][crc >> 8 & 255] ^ tables[1][crc >> 16 & 255] ^ tables[0][crc >> 24];
  }
  for (; size; size--, byte++) crc = (crc >> 8) ^ tables[0][(crc ^ *byte) & 255];
  return ~crc;
}

}  // namespace fastpart
