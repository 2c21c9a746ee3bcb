// CRC-32C for bytes on a wire or a disk, and a 64-bit fingerprint for telling tensors apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mnemosyne {

// Extends `crc`, the CRC-32C of what came before (0 at the start), by `bytes`.
// Reference: RFC 3720, appendix B.4 (Castagnoli polynomial).
uint32_t ExtendCrc32c(uint32_t crc, std::span<const std::byte> bytes);

// The CRC-32C of `bytes`.
inline uint32_t Crc32c(std::span<const std::byte> bytes) { return ExtendCrc32c(0, bytes); }

// A 64-bit hash (XXH3) of `bytes`: differing bytes almost surely have differing fingerprints. It
// does not resist an adversary.
uint64_t Fingerprint(std::span<const std::byte> bytes);

}  // namespace mnemosyne
