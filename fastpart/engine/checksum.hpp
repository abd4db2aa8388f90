// CRC-32 of the model and trace files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastpart {

// CRC-32 (IEEE 802.3, reflected 0xEDB88320, as zlib). Pass the result for one part as the seed of the next.
uint32_t crc32(const void* data, size_t size, uint32_t seed = 0);

}  // namespace fastpart
