#include "client/cpp/state_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <ostream>
#include <system_error>

#include "base/error.h"
#include "base/status_macros.h"
#include "google/protobuf/util/delimited_message_util.h"

namespace mnemosyne {
namespace {

absl::Status FileError(std::string_view what, const std::filesystem::path& path, int error) {
  return FailedPrecondition("cannot {} {}: {}", what, path.string(),
                            std::generic_category().message(error));
}

absl::Status Synchronize(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return FileError("open", path, errno);
  const int error = ::fsync(file) == 0 ? 0 : errno;
  ::close(file);
  return error == 0 ? absl::OkStatus() : FileError("save", path, error);
}

}  // namespace

absl::Status WriteStatePart(const v1::StatePart& part, std::ostream& target) {
  if (!google::protobuf::util::SerializeDelimitedToOstream(part, &target)) {
    return DataLoss("cannot write the state: no room, or the target is closed");
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::StatePart> StatePartReader::Next() {
  v1::StatePart part;
  bool clean_end = false;
  if (!google::protobuf::util::ParseDelimitedFromZeroCopyStream(&part, &stream_, &clean_end)) {
    return clean_end ? DataLoss("the state ends too early")
                     : DataLoss("the state is damaged, cut short, or not a state");
  }
  return part;
}

absl::Status WriteFileWhole(const std::filesystem::path& path,
                            const std::function<absl::Status(std::ostream&)>& write) {
  const std::filesystem::path partial = path.string() + ".part";
  const auto fail = [&](absl::Status status) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    return status;
  };
  {
    std::ofstream file(partial, std::ios::binary | std::ios::trunc);
    if (!file) return FileError("write", partial, errno);
    if (absl::Status status = write(file); !status.ok()) return fail(std::move(status));
    file.close();
    if (!file) return fail(FileError("write", partial, errno));
  }
  if (absl::Status status = Synchronize(partial); !status.ok()) return fail(std::move(status));
  std::error_code error;
  std::filesystem::rename(partial, path, error);
  if (error) return fail(FileError("rename", partial, error.value()));
  return absl::OkStatus();
}

}  // namespace mnemosyne
