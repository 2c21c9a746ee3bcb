#include "client/cpp/ctl/array_file.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>

#include "base/error.h"
#include "base/safetensors.h"
#include "base/status_macros.h"

namespace mnemosyne::ctl {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kBytesMax = size_t{1} << 36;

// What stands behind `'key':` in a header, up to the end of its value.
std::string_view ValueOf(std::string_view header, std::string_view key) {
  const std::string quoted = fmt::format("'{}':", key);
  const size_t at = header.find(quoted);
  if (at == std::string_view::npos) return {};
  std::string_view value = header.substr(at + quoted.size());
  while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
  const bool tuple = !value.empty() && value.front() == '(';
  const size_t end = value.find(tuple ? ')' : ',');
  return value.substr(0, end == std::string_view::npos ? 0 : end + (tuple ? 1 : 0));
}

// The sizes in a tuple such as `(2, 3)`; nothing for other texts.
std::optional<std::vector<int64_t>> ParseShape(std::string_view tuple) {
  if (tuple.size() < 2 || tuple.front() != '(' || tuple.back() != ')') return std::nullopt;
  std::vector<int64_t> shape;
  int64_t size = -1;
  for (const char c : tuple.substr(1)) {
    if (c >= '0' && c <= '9') {
      size = (size < 0 ? 0 : size) * 10 + (c - '0');
      if (size > static_cast<int64_t>(kBytesMax)) return std::nullopt;
    } else if (c == ',' || c == ')') {
      if (size >= 0) shape.push_back(size);
      size = -1;
    } else if (c != ' ') {
      return std::nullopt;
    }
  }
  return shape;
}

absl::StatusOr<Array> ParseNpy(std::string_view path, std::string_view file) {
  const auto rotten = [&](std::string_view why) { return DataLoss("{}: {}", path, why); };
  if (file.size() < 12 || !file.starts_with(kMagic)) return rotten("no .npy file");
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(file[i])); };
  const bool wide = byte(6) >= 2;
  size_t length = byte(8) | byte(9) << 8U;
  if (wide) length |= byte(10) << 16U | byte(11) << 24U;
  const size_t start = wide ? 12 : 10;
  if (length > file.size() - start) return rotten("the header is cut off");
  const std::string_view header = file.substr(start, length);
  const std::string_view data = file.substr(start + length);
  const std::string_view type = ValueOf(header, "descr");
  if (type != "'<f4'" && type != "'<f8'") {
    return rotten("elements are neither float32 nor float64; convert them with astype('float32')");
  }
  if (ValueOf(header, "fortran_order") != "False") {
    return rotten("elements are in Fortran's order; save numpy.ascontiguousarray of it");
  }
  const auto shape = ParseShape(ValueOf(header, "shape"));
  if (!shape.has_value()) return rotten("the shape cannot be read");
  Array array;
  array.shape = *shape;
  double count = 1;
  for (const int64_t size : *shape) count *= static_cast<double>(size);
  const size_t element = type == "'<f4'" ? 4 : 8;
  if (count * static_cast<double>(element) != static_cast<double>(data.size())) {
    return rotten("the size of the file does not fit its shape");
  }
  array.values.resize(static_cast<size_t>(count));
  if (array.values.empty()) return array;
  if (element == 4) {
    std::memcpy(array.values.data(), data.data(), data.size());
    return array;
  }
  for (size_t i = 0; i < array.values.size(); ++i) {
    double number = 0;
    std::memcpy(&number, data.data() + 8 * i, 8);
    array.values[i] = static_cast<float>(number);
  }
  return array;
}

absl::StatusOr<Array> ReadTensor(const std::string& path, std::string_view name) {
  MNEMO_ASSIGN_OR_RETURN(const Safetensors file, Safetensors::Read(path, kBytesMax));
  const SafetensorsTensor* const tensor = file.Find(name);
  if (tensor == nullptr) return NotFound("{} has no tensor {}", path, name);
  Array array;
  array.shape.assign(tensor->shape.begin(), tensor->shape.end());
  MNEMO_ASSIGN_OR_RETURN(array.values, file.Floats(*tensor));
  return array;
}

}  // namespace

std::string ShapeText(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

absl::StatusOr<Array> ReadArray(std::string_view place) {
  constexpr std::string_view kSuffix = ".safetensors:";
  if (const size_t at = place.find(kSuffix); at != std::string_view::npos) {
    return ReadTensor(std::string(place.substr(0, at + kSuffix.size() - 1)),
                      place.substr(at + kSuffix.size()));
  }
  const std::string path(place);
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return NotFound("no such file: {}", path);
  const std::string file((std::istreambuf_iterator<char>(stream)),
                         std::istreambuf_iterator<char>());
  return ParseNpy(path, file);
}

std::string NpyHeader(std::span<const int64_t> shape) {
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{}), }}",
                                   fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  // The data start at a multiple of 64 bytes.
  constexpr size_t kBefore = 10;
  header.append(63 - (kBefore + header.size()) % 64, ' ');
  header += '\n';
  std::string file(kMagic);
  file += {1, 0, static_cast<char>(header.size() & 0xFFU), static_cast<char>(header.size() >> 8U)};
  return file + header;
}

absl::Status WriteNpy(const std::filesystem::path& path, const Array& array) {
  std::ofstream stream(path, std::ios::binary);
  stream << NpyHeader(array.shape);
  stream.write(reinterpret_cast<const char*>(array.values.data()),
               static_cast<std::streamsize>(array.values.size() * sizeof(float)));
  stream.close();
  if (stream) return absl::OkStatus();
  return FailedPrecondition("cannot write {}", path.string());
}

}  // namespace mnemosyne::ctl
