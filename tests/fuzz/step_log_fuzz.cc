// Feeds arbitrary files to the reader of a session's log, and, as the contents of a record with the
// right checksum, to that of a step. What was cut off must leave a log that reads without an error.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>

#include "server/session/session_record.h"
#include "server/store/step_log.h"
#include "tests/fuzz/memory_file.h"

namespace {

using namespace mnemosyne::server;  // NOLINT(google-build-using-namespace)

// A log makes its folder's entries durable, so it needs a folder: one in memory, where there is
// one.
std::filesystem::path LogPath() {
  std::filesystem::path folder = "/dev/shm";
  if (!std::filesystem::is_directory(folder)) folder = std::filesystem::temp_directory_path();
  return folder / ("step_log_fuzz." + std::to_string(::getpid()));
}

absl::Status TakeStep(std::span<const std::byte> record) {
  std::span<const std::byte> gradients;
  const auto step = LoggedStepFromBytes(record, gradients);
  if (step.ok() && gradients.size() > record.size()) std::abort();
  return absl::OkStatus();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  {
    const mnemosyne::fuzz::MemoryFile file(data, size);
    (void)ReadStepLog(file.path(), &TakeStep);
    if (!ReadStepLog(file.path(), &TakeStep).ok()) std::abort();
  }
  // As records that were written: the input cut in two.
  const std::filesystem::path path = LogPath();
  std::filesystem::remove(path);
  size_t records = 0;
  {
    const auto log = StepLog::Open(path);
    if (!log.ok()) std::abort();
    const std::span<const std::byte> half = bytes.first(size / 2);
    const std::span<const std::byte> rest = bytes.subspan(size / 2);
    for (const auto& piece : {half, rest}) {
      if (!(*log)->Append(std::span(&piece, 1)).ok()) std::abort();
    }
  }
  const auto count = [&records](std::span<const std::byte> record) {
    ++records;
    return TakeStep(record);
  };
  if (!ReadStepLog(path, count).ok() || records != 2) std::abort();
  std::filesystem::remove(path);
  return 0;
}
