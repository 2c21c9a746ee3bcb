// Arrays of float32 in files: NumPy's .npy, and tensors of a safetensors file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace mnemosyne::ctl {

struct Array {
  std::vector<int64_t> shape;
  std::vector<float> values;  // Row-major.
};

// Such as `[2, 4, 100, 16]`.
std::string ShapeText(std::span<const int64_t> shape);

// Reads a .npy file of little-endian float32 or float64 in C order; or, of `FILE.safetensors:NAME`,
// one F32 tensor. NotFound for a file or tensor that is not there, DataLoss for one that cannot be
// read.
absl::StatusOr<Array> ReadArray(std::string_view place);

// Writes a .npy file of float32.
absl::Status WriteNpy(const std::filesystem::path& path, const Array& array);

// The header of such a file, for the shape.
std::string NpyHeader(std::span<const int64_t> shape);

}  // namespace mnemosyne::ctl
