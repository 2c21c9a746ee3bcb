#include "base/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace mnemosyne {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "Floats() copies bytes as they are");

constexpr size_t kLengthBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

struct ElementType {
  std::string_view name;
  size_t bytes;
};
constexpr std::array kElementTypes = {
    ElementType{"F64", 8}, ElementType{"F32", 4}, ElementType{"F16", 2}, ElementType{"BF16", 2},
    ElementType{"I64", 8}, ElementType{"I32", 4}, ElementType{"I16", 2}, ElementType{"I8", 1},
    ElementType{"U64", 8}, ElementType{"U32", 4}, ElementType{"U16", 2}, ElementType{"U8", 1},
    ElementType{"BOOL", 1}};

// What the header says of a tensor.
struct Entry {
  std::string name;
  std::optional<std::string> type;
  std::optional<std::vector<uint64_t>> shape;
  std::optional<std::vector<uint64_t>> offsets;
};

// Takes the header's JSON event by event. Only the one form that a header can have is accepted, so
// nothing in it nests deeper than that form.
class HeaderReader {
 public:
  const absl::Status& status() const { return status_; }
  std::map<std::string, std::string>& metadata() { return metadata_; }
  const std::vector<Entry>& entries() const { return entries_; }

  // The interface of nlohmann::json::sax_parse; false ends the parse.
  bool null() { return Unexpected("null"); }
  bool boolean(bool) { return Unexpected("a boolean"); }
  bool number_integer(Json::number_integer_t value) {
    return Fail("{}: {} is not a size", Where(), value);
  }
  bool number_float(Json::number_float_t, const std::string&) {
    return Fail("{}: a number is not a size of at most 64 bits", Where());
  }
  bool number_unsigned(Json::number_unsigned_t value) {
    if (place_ != Place::kShape && place_ != Place::kOffsets) return Unexpected("a number");
    if (Numbers().size() == kSafetensorsRankMax) {
      return Fail("{}: more than {} numbers", Where(), kSafetensorsRankMax);
    }
    Numbers().push_back(value);
    return true;
  }
  bool string(std::string& value) {
    if (place_ == Place::kMetadata) {
      metadata_[key_] = std::move(value);
      return true;
    }
    if (place_ != Place::kTensor || key_ != "dtype") return Unexpected("a text");
    entries_.back().type = std::move(value);
    return true;
  }
  bool binary(Json::binary_t&) { return Unexpected("bytes"); }

  bool start_object(size_t) {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kRoot;
        return true;
      case Place::kRoot:
        place_ = key_ == kMetadataKey ? Place::kMetadata : Place::kTensor;
        if (place_ == Place::kTensor) entries_.push_back({key_, {}, {}, {}});
        return true;
      default:
        return Unexpected("an object");
    }
  }
  bool key(std::string& value) {
    if (place_ == Place::kRoot) {
      if (!names_.insert(value).second) return Fail("repeated name: '{}'", value);
      if (value.empty()) return Fail("a tensor has an empty name");
      if (value.size() > kSafetensorsNameBytesMax) {
        return Fail("a name has {} bytes, the most is {}", value.size(), kSafetensorsNameBytesMax);
      }
    } else if (place_ == Place::kMetadata) {
      if (metadata_.contains(value)) return Fail("repeated key of the metadata: '{}'", value);
    } else if (!IsFreeField(value)) {
      return Fail("tensor '{}': unknown or repeated field '{}'", entries_.back().name, value);
    }
    key_ = std::move(value);
    return true;
  }
  bool end_object() {
    place_ = place_ == Place::kRoot ? Place::kStart : Place::kRoot;
    return true;
  }
  bool start_array(size_t) {
    if (place_ != Place::kTensor || key_ == "dtype") return Unexpected("a list");
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    (place_ == Place::kShape ? entries_.back().shape : entries_.back().offsets).emplace();
    return true;
  }
  bool end_array() {
    place_ = Place::kTensor;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const Json::exception& error) {
    const bool utf8 = std::string_view(error.what()).find("UTF-8") != std::string_view::npos;
    return Fail("byte {} is not {}", position, utf8 ? "UTF-8" : "JSON");
  }

 private:
  enum class Place { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets };

  template <typename... Args>
  bool Fail(fmt::format_string<Args...> format, Args&&... args) {
    status_ = DataLoss("wrong header: {}", fmt::format(format, std::forward<Args>(args)...));
    return false;
  }
  bool Unexpected(std::string_view what) { return Fail("{}: {} is out of place", Where(), what); }

  std::string Where() const {
    if (place_ == Place::kStart) return "at the top";
    if (place_ == Place::kRoot) return fmt::format("'{}'", key_);
    if (place_ == Place::kMetadata) return fmt::format("metadata '{}'", key_);
    return fmt::format("tensor '{}', {}", entries_.back().name, key_);
  }
  bool IsFreeField(std::string_view field) const {
    const Entry& entry = entries_.back();
    return (field == "dtype" && !entry.type) || (field == "shape" && !entry.shape) ||
           (field == "data_offsets" && !entry.offsets);
  }
  std::vector<uint64_t>& Numbers() {
    return place_ == Place::kShape ? *entries_.back().shape : *entries_.back().offsets;
  }

  absl::Status status_;
  Place place_ = Place::kStart;
  std::string key_;
  std::set<std::string> names_;
  std::map<std::string, std::string> metadata_;
  std::vector<Entry> entries_;
};

absl::StatusOr<size_t> ElementBytes(const Entry& entry) {
  for (const ElementType& type : kElementTypes) {
    if (type.name == *entry.type) return type.bytes;
  }
  return DataLoss("wrong header: tensor '{}' has the unknown type '{}'", entry.name, *entry.type);
}

// Checks an entry whose data have to start at byte `start` of all data, which are `data_bytes`.
absl::StatusOr<SafetensorsTensor> CheckEntry(const Entry& entry, size_t start, size_t data_bytes) {
  if (!entry.type || !entry.shape || !entry.offsets || entry.offsets->size() != 2) {
    return DataLoss(
        "wrong header: tensor '{}' lacks dtype, shape, or a data_offsets of two numbers",
        entry.name);
  }
  MNEMO_ASSIGN_OR_RETURN(const size_t element_bytes, ElementBytes(entry));
  SafetensorsTensor tensor{.name = entry.name, .type = *entry.type, .shape = {}};
  int64_t bytes = static_cast<int64_t>(element_bytes);
  // A size of 0 must not hide that the others overflow.
  int64_t bound = bytes;
  for (const uint64_t size : *entry.shape) {
    if (__builtin_mul_overflow(bound, std::max<uint64_t>(size, 1), &bound)) {
      return DataLoss("wrong header: the shape of tensor '{}' overflows", entry.name);
    }
    bytes *= static_cast<int64_t>(size);
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  const uint64_t begin = (*entry.offsets)[0];
  const uint64_t end = (*entry.offsets)[1];
  if (begin != start) {
    return DataLoss("wrong header: the data of tensor '{}' start at {}, expected {}: {}",
                    entry.name, begin, start,
                    begin < start ? "they overlap the data of another, or tensors are not sorted"
                                  : "there is a gap, or tensors are not sorted");
  }
  if (end < begin || end - begin != static_cast<uint64_t>(bytes)) {
    return DataLoss(
        "wrong header: the data of tensor '{}' are from {} to {}, its shape has {} "
        "bytes",
        entry.name, begin, end, bytes);
  }
  if (end > data_bytes) {
    return DataLoss("truncated: the data of tensor '{}' end at {}, the file has {} bytes of data",
                    entry.name, end, data_bytes);
  }
  tensor.byte_count = static_cast<size_t>(bytes);
  tensor.element_count = tensor.byte_count / element_bytes;
  return tensor;
}

}  // namespace

absl::StatusOr<Safetensors> Safetensors::Parse(std::vector<std::byte> file) {
  if (file.size() < kLengthBytes) {
    return DataLoss("truncated: the file has {} bytes, a length alone has {}", file.size(),
                    kLengthBytes);
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), kLengthBytes);
  if (header_bytes > kSafetensorsHeaderBytesMax) {
    return DataLoss("header too large: {} bytes, the most is {}", header_bytes,
                    kSafetensorsHeaderBytesMax);
  }
  if (header_bytes > file.size() - kLengthBytes) {
    return DataLoss("truncated: the header has {} bytes, the file {} behind its length",
                    header_bytes, file.size() - kLengthBytes);
  }
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + kLengthBytes,
                                header_bytes);
  if (!header.starts_with('{')) return DataLoss("wrong header: it does not begin with '{{'");
  // The parser would take it for the end of the text.
  if (header.find('\0') != std::string_view::npos) return DataLoss("wrong header: it holds a NUL");

  HeaderReader reader;
  if (!Json::sax_parse(header, &reader)) return reader.status();
  Safetensors result;
  const size_t data_start = kLengthBytes + header_bytes;
  const size_t data_bytes = file.size() - data_start;
  size_t start = 0;
  for (const Entry& entry : reader.entries()) {
    MNEMO_ASSIGN_OR_RETURN(SafetensorsTensor tensor, CheckEntry(entry, start, data_bytes));
    tensor.offset = data_start + start;
    start += tensor.byte_count;
    result.tensors_.push_back(std::move(tensor));
  }
  if (start != data_bytes) {
    return DataLoss("too long: the tensors have {} bytes, the file has {} bytes of data", start,
                    data_bytes);
  }
  result.metadata_ = std::move(reader.metadata());
  result.hash_ = Sha256Hex(file);
  result.file_ = std::move(file);
  return result;
}

absl::StatusOr<Safetensors> Safetensors::Read(const std::filesystem::path& path, size_t bytes_max) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return NotFound("no such file: {}", path.string());
  }
  std::ifstream stream(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = stream.tellg();
  if (!stream || size < 0) return NotFound("cannot be read: {}", path.string());
  if (static_cast<uint64_t>(size) > bytes_max) {
    return ResourceExhausted("too large: the file has {} bytes, the most is {}", size, bytes_max);
  }
  std::vector<std::byte> file(static_cast<size_t>(size));
  stream.seekg(0);
  if (!stream.read(reinterpret_cast<char*>(file.data()), size)) {
    return NotFound("cannot be read: {}", path.string());
  }
  return Parse(std::move(file));
}

const SafetensorsTensor* Safetensors::Find(std::string_view name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [&](const auto& tensor) { return tensor.name == name; });
  return found == tensors_.end() ? nullptr : &*found;
}

std::span<const std::byte> Safetensors::Data(const SafetensorsTensor& tensor) const {
  return std::span(file_).subspan(tensor.offset, tensor.byte_count);
}

absl::StatusOr<std::vector<float>> Safetensors::Floats(const SafetensorsTensor& tensor) const {
  if (tensor.type != "F32") {
    return InvalidArgument("wrong type: tensor '{}' is {}, expected F32", tensor.name, tensor.type);
  }
  std::vector<float> values(tensor.element_count);
  const std::span<const std::byte> data = Data(tensor);
  if (!data.empty()) std::memcpy(values.data(), data.data(), data.size());
  return values;
}

}  // namespace mnemosyne
