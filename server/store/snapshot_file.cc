#include "server/store/snapshot_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/checksum.h"
#include "base/error.h"
#include "base/json_integer.h"
#include "base/status_macros.h"

namespace mnemosyne::server {
namespace {

using Json = nlohmann::json;

constexpr char kMetadataKey[] = "__metadata__";
constexpr char kChecksumTensor[] = "checksum";
constexpr char kNoDigits[] = "00000000";
// The field as it stands in the header; its eight digits follow.
constexpr std::string_view kCrcField = "\"header_crc32c\":\"";
constexpr size_t kHeaderAlignment = 8;

// Bytes that are read and checked at a time.
constexpr size_t kPieceBytes = size_t{256} << 10;

// A file up to this is read ahead as a whole.
constexpr off_t kAheadBytes = off_t{8} << 20;

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// A header with zeros in the place of its checksum.
absl::StatusOr<std::string> MakeHeader(const SnapshotTexts& texts,
                                       const std::vector<SnapshotTensor>& tensors) {
  try {
    Json metadata = texts;
    metadata["format"] = kSnapshotFormat;
    // Written first, so that no text can hold what looks like it before it.
    std::string header = fmt::format("{{\"{}\":{{{}{}\"", kMetadataKey, kCrcField, kNoDigits);
    for (const auto& [key, value] : metadata.items()) {
      header += fmt::format(",{}:{}", Json(key).dump(), value.dump());
    }
    header += "}";
    uint64_t offset = 0;
    const auto add = [&](const SnapshotTensor& tensor) {
      header += fmt::format(",{}:{{\"dtype\":{},\"shape\":{},\"data_offsets\":[{},{}]}}",
                            Json(tensor.name).dump(), Json(tensor.type).dump(),
                            Json(tensor.shape).dump(), offset, offset + tensor.byte_count);
      offset += tensor.byte_count;
    };
    for (const SnapshotTensor& tensor : tensors) add(tensor);
    add({.name = kChecksumTensor, .type = "U8", .shape = {4}, .byte_count = 4});
    header += "}";
    header.append((kHeaderAlignment - header.size() % kHeaderAlignment) % kHeaderAlignment, ' ');
    return header;
  } catch (const Json::exception& error) {
    return Internal("a snapshot's header cannot be written: {}", error.what());
  }
}

uint32_t HeaderCrc(uint64_t length, std::string_view header) {
  const uint32_t crc = Crc32c(std::as_bytes(std::span(&length, 1)));
  return ExtendCrc32c(crc, std::as_bytes(std::span(header)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotWriter>> SnapshotWriter::Create(
    std::filesystem::path path, std::string kind, const SnapshotTexts& texts,
    const std::vector<SnapshotTensor>& tensors) {
  MNEMO_ASSIGN_OR_RETURN(std::string header, MakeHeader(texts, tensors));
  const uint64_t length = header.size();
  const std::string digits = fmt::format("{:08x}", HeaderCrc(length, header));
  header.replace(header.find(kCrcField) + kCrcField.size(), digits.size(), digits);

  MNEMO_ASSIGN_OR_RETURN(auto file, DurableFile::Create(std::move(path), std::move(kind)));
  std::unique_ptr<SnapshotWriter> writer(new SnapshotWriter(std::move(file)));
  for (const SnapshotTensor& tensor : tensors) writer->left_ += tensor.byte_count;
  std::string front(sizeof(length), '\0');
  std::memcpy(front.data(), &length, sizeof(length));
  front += header;
  writer->crc32c_ = Crc32c(Bytes(front));
  MNEMO_RETURN_IF_ERROR(writer->file_->Write(Bytes(front)));
  return writer;
}

absl::Status SnapshotWriter::Write(std::span<const std::byte> bytes) {
  if (bytes.size() > left_) return Internal("a snapshot has more bytes than its header says");
  left_ -= bytes.size();
  crc32c_ = ExtendCrc32c(crc32c_, bytes);
  return file_->Write(bytes);
}

absl::Status SnapshotWriter::Commit() {
  if (left_ != 0) return Internal("a snapshot lacks {} bytes", left_);
  MNEMO_RETURN_IF_ERROR(file_->Write(std::as_bytes(std::span(&crc32c_, 1))));
  return file_->Commit();
}

SnapshotReader::~SnapshotReader() { ::close(file_); }

absl::StatusOr<std::unique_ptr<SnapshotReader>> SnapshotReader::Open(
    const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return NotFound("there is no such snapshot");
  std::unique_ptr<SnapshotReader> reader(new SnapshotReader(file));
  MNEMO_RETURN_IF_ERROR(reader->ReadHeader());
  return reader;
}

absl::Status SnapshotReader::ReadRaw(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::read(file_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return DataLoss("cannot be read: {}", std::strerror(errno));
    if (count == 0) return DataLoss("truncated: {} bytes are missing", bytes.size());
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::Status SnapshotReader::ReadHeader() {
  uint64_t length = 0;
  MNEMO_RETURN_IF_ERROR(ReadRaw(std::as_writable_bytes(std::span(&length, 1))));
  const off_t size = ::lseek(file_, 0, SEEK_END);
  ::lseek(file_, sizeof(length), SEEK_SET);
  if (length > kSnapshotHeaderBytesMax || size < 0 || length > static_cast<uint64_t>(size)) {
    return DataLoss("wrong header: its length is {}", length);
  }
  std::string header(length, '\0');
  MNEMO_RETURN_IF_ERROR(ReadRaw(std::as_writable_bytes(std::span(header))));
  crc32c_ = HeaderCrc(length, header);

  const size_t field = header.find(kCrcField);
  if (field == std::string::npos || field + kCrcField.size() + 8 > header.size()) {
    return DataLoss("wrong header: it has no checksum");
  }
  const size_t place = field + kCrcField.size();
  const std::string digits = header.substr(place, 8);
  header.replace(place, 8, kNoDigits);
  if (digits != fmt::format("{:08x}", HeaderCrc(length, header))) {
    return DataLoss("wrong header: its checksum does not fit");
  }
  try {
    const Json json = Json::parse(header);
    std::vector<std::pair<uint64_t, SnapshotTensor>> found;
    for (const auto& [name, entry] : json.items()) {
      if (name == kMetadataKey) {
        texts_ = entry.get<SnapshotTexts>();
        continue;
      }
      const auto offsets = IntegersOf<uint64_t>(entry.at("data_offsets"));
      found.emplace_back(offsets.at(0),
                         SnapshotTensor{.name = name,
                                        .type = entry.at("dtype"),
                                        .shape = IntegersOf<int64_t>(entry.at("shape")),
                                        .byte_count = offsets.at(1) - offsets[0]});
    }
    // Tensors without bytes share an offset with the one behind them.
    std::ranges::sort(found, [](const auto& a, const auto& b) {
      return std::pair(a.first, a.first + a.second.byte_count) <
             std::pair(b.first, b.first + b.second.byte_count);
    });
    for (auto& [offset, tensor] : found) tensors_.push_back(std::move(tensor));
  } catch (const std::exception& error) {
    return DataLoss("wrong header: {}", error.what());
  }
  if (tensors_.empty() || tensors_.back().name != kChecksumTensor) {
    return DataLoss("wrong header: the last tensor is not the checksum");
  }
  tensors_.pop_back();
  if (texts_["format"] != kSnapshotFormat) {
    return DataLoss("the format is '{}', this daemon reads {}", texts_["format"], kSnapshotFormat);
  }
  return absl::OkStatus();
}

void SnapshotReader::ReadAhead() {
  const off_t from = ::lseek(file_, 0, SEEK_CUR);
  const off_t size = ::lseek(file_, 0, SEEK_END);
  ::lseek(file_, from, SEEK_SET);
  // A small file is asked for at once. In a large one that would leave a gap behind what the kernel
  // takes of such a request: it reads ahead by itself, and further if it is told so.
  const bool at_once = size - from <= kAheadBytes;
  (void)::posix_fadvise(file_, 0, 0, at_once ? POSIX_FADV_WILLNEED : POSIX_FADV_SEQUENTIAL);
}

absl::Status SnapshotReader::Read(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    // What has just come is still in the processor's cache.
    const std::span<std::byte> piece = bytes.first(std::min(kPieceBytes, bytes.size()));
    MNEMO_RETURN_IF_ERROR(ReadRaw(piece));
    crc32c_ = ExtendCrc32c(crc32c_, piece);
    bytes = bytes.subspan(piece.size());
  }
  return absl::OkStatus();
}

absl::Status SnapshotReader::Finish() {
  uint32_t stored = 0;
  MNEMO_RETURN_IF_ERROR(ReadRaw(std::as_writable_bytes(std::span(&stored, 1))));
  if (stored != crc32c_) return DataLoss("the checksum does not fit the contents");
  std::byte more;
  if (::read(file_, &more, 1) != 0) return DataLoss("too long: bytes follow the checksum");
  return absl::OkStatus();
}

}  // namespace mnemosyne::server
