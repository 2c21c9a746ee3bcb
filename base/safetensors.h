// Reads safetensors files: named tensors and a map of texts, without any code to run.
//
// A file is the length of a header (64 bits, little-endian), the header (JSON), and the data of all
// tensors. The reader is stricter than the format asks: tensors stand in the header in the order of
// their data, and their data lie one behind the other from the first byte to the last, so that
// there is one way to read a file and no byte in it that nobody looks at.
//
// Reference: https://github.com/huggingface/safetensors, section "Format".
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace mnemosyne {

// Bounds on what a file may hold.
inline constexpr size_t kSafetensorsHeaderBytesMax = size_t{1} << 20;
inline constexpr size_t kSafetensorsNameBytesMax = 256;
inline constexpr size_t kSafetensorsRankMax = 8;

// One tensor: a part of its file, row-major, little-endian, with no particular alignment.
struct SafetensorsTensor {
  std::string name;
  std::string type;            // As the file has it, such as `F32`.
  std::vector<int64_t> shape;  // Empty for a scalar; sizes may be 0.
  size_t element_count = 1;    // Product of the shape.
  size_t offset = 0;           // Of its first byte, in the file.
  size_t byte_count = 0;
};

// A file in memory. Immutable; any thread.
class Safetensors {
 public:
  // Takes the bytes of a file. DataLoss names what is wrong, and the tensor at fault.
  static absl::StatusOr<Safetensors> Parse(std::vector<std::byte> file);

  // Reads a file of at most `bytes_max` bytes. NotFound if there is no regular file that can be
  // read, ResourceExhausted if it is larger, DataLoss as Parse.
  static absl::StatusOr<Safetensors> Read(const std::filesystem::path& path, size_t bytes_max);

  // The texts under `__metadata__`.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // In the order of their data.
  std::span<const SafetensorsTensor> tensors() const { return tensors_; }

  // The tensor of that name, or null.
  const SafetensorsTensor* Find(std::string_view name) const;

  // The bytes of one of tensors().
  std::span<const std::byte> Data(const SafetensorsTensor& tensor) const;

  // The elements of one of tensors(). InvalidArgument unless its type is `F32`.
  absl::StatusOr<std::vector<float>> Floats(const SafetensorsTensor& tensor) const;

  // SHA-256 of the whole file in hexadecimal.
  const std::string& hash() const { return hash_; }

 private:
  Safetensors() = default;

  std::vector<std::byte> file_;
  std::string hash_;
  std::map<std::string, std::string> metadata_;
  std::vector<SafetensorsTensor> tensors_;
};

}  // namespace mnemosyne
