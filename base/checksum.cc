#include "base/checksum.h"

#include <xxhash.h>

#include <array>
#include <bit>
#include <cstring>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

namespace mnemosyne {
namespace {

#if defined(__SSE4_2__)

uint32_t Extend(uint32_t crc, const std::byte* data, size_t size) {
  uint64_t wide = crc;
  for (; size >= 8; data += 8, size -= 8) {
    uint64_t word;
    std::memcpy(&word, data, sizeof(word));
    wide = _mm_crc32_u64(wide, word);
  }
  auto narrow = static_cast<uint32_t>(wide);
  for (; size > 0; ++data, --size) {
    narrow = _mm_crc32_u8(narrow, std::to_integer<uint8_t>(*data));
  }
  return narrow;
}

#else

constexpr uint32_t kReversedPolynomial = 0x82F63B78;

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) {
      value = (value >> 1) ^ ((value & 1) != 0 ? kReversedPolynomial : 0);
    }
    table[i] = value;
  }
  return table;
}

uint32_t Extend(uint32_t crc, const std::byte* data, size_t size) {
  static constexpr auto kTable = MakeTable();
  for (; size > 0; ++data, --size) {
    crc = kTable[(crc ^ std::to_integer<uint32_t>(*data)) & 0xFF] ^ (crc >> 8);
  }
  return crc;
}

#endif

}  // namespace

uint32_t ExtendCrc32c(uint32_t crc, std::span<const std::byte> bytes) {
  return ~Extend(~crc, bytes.data(), bytes.size());
}

uint64_t Fingerprint(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace mnemosyne
