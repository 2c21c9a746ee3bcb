// States in files and streams: StateParts, each after its length as a varint.
#pragma once

#include <filesystem>
#include <functional>
#include <iosfwd>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/io/zero_copy_stream_impl.h"
#include "mnemosyne/v1/state.pb.h"

namespace mnemosyne {

// Appends a part.
absl::Status WriteStatePart(const v1::StatePart& part, std::ostream& target);

// Reads the parts of a state one after the other.
class StatePartReader {
 public:
  // `source` outlives the reader, which may read beyond the state's end.
  explicit StatePartReader(std::istream& source) : stream_(&source) {}

  // The next part. DataLoss if the source ends before the state does, or holds something else.
  absl::StatusOr<v1::StatePart> Next();

 private:
  google::protobuf::io::IstreamInputStream stream_;
};

// Writes a file by `write`, so that at `path` there is the whole new file or what was there before,
// also after a crash.
absl::Status WriteFileWhole(const std::filesystem::path& path,
                            const std::function<absl::Status(std::ostream&)>& write);

}  // namespace mnemosyne
