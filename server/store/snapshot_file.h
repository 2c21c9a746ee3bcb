// The file of a snapshot: tensors and texts, as safetensors that other tools open, with checksums.
//
// The metadata holds the texts, `format` and `header_crc32c`: the CRC-32C of the file up to the end
// of the header, with the eight digits of that value itself taken as zeros. The last tensor,
// `checksum` (U8 [4]), is the CRC-32C of all that stands before it, little-endian. So a header can
// be trusted before the body is read, and a body once it has been read to its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/durable_file.h"

namespace mnemosyne::server {

// The version of the format, in the metadata under `format`. A daemon reads its own and older ones.
inline constexpr char kSnapshotFormat[] = "mnemosyne-snapshot-1";

// The most bytes of a header.
inline constexpr uint64_t kSnapshotHeaderBytesMax = uint64_t{256} << 20;

// What the header says of a tensor.
struct SnapshotTensor {
  std::string name;
  std::string type;  // As safetensors has it: F32, I64, U8, ...
  std::vector<int64_t> shape;
  uint64_t byte_count = 0;
};

using SnapshotTexts = std::map<std::string, std::string>;

// Writes a snapshot from front to end; it appears when it is committed. Not thread-safe. Errors as
// DurableFile.
class SnapshotWriter {
 public:
  // `kind` names the fail points, as in DurableFile.
  static absl::StatusOr<std::unique_ptr<SnapshotWriter>> Create(
      std::filesystem::path path, std::string kind, const SnapshotTexts& texts,
      const std::vector<SnapshotTensor>& tensors);

  // Appends bytes of the tensors, one behind the other; they may be cut anywhere.
  absl::Status Write(std::span<const std::byte> bytes);

  // Internal if not all bytes came.
  absl::Status Commit();

 private:
  explicit SnapshotWriter(std::unique_ptr<DurableFile> file) : file_(std::move(file)) {}

  const std::unique_ptr<DurableFile> file_;
  uint32_t crc32c_ = 0;
  uint64_t left_ = 0;
};

// Reads a snapshot from front to end. Not thread-safe.
class SnapshotReader {
 public:
  // Reads the header. NotFound if there is no such file; DataLoss if it is torn, rotten, or of a
  // format that this daemon does not know.
  static absl::StatusOr<std::unique_ptr<SnapshotReader>> Open(const std::filesystem::path& path);

  ~SnapshotReader();
  SnapshotReader(const SnapshotReader&) = delete;
  SnapshotReader& operator=(const SnapshotReader&) = delete;

  const SnapshotTexts& texts() const { return texts_; }

  // In the order of their data, without the checksum.
  const std::vector<SnapshotTensor>& tensors() const { return tensors_; }

  // Lets the disk read ahead from here on, so that it works while the caller does something else.
  // For who is going to read all tensors.
  void ReadAhead();

  // The next `bytes.size()` bytes of the tensors. DataLoss if the file ends before.
  absl::Status Read(std::span<std::byte> bytes);

  // After the last byte: DataLoss unless the checksum fits and the file ends here.
  absl::Status Finish();

 private:
  explicit SnapshotReader(int file) : file_(file) {}

  absl::Status ReadRaw(std::span<std::byte> bytes);
  absl::Status ReadHeader();

  const int file_;
  uint32_t crc32c_ = 0;
  SnapshotTexts texts_;
  std::vector<SnapshotTensor> tensors_;
};

}  // namespace mnemosyne::server
