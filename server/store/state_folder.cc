#include "server/store/state_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/checksum.h"
#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/store/durable_file.h"

namespace mnemosyne::server {
namespace {

namespace fs = std::filesystem;

constexpr char kSnapshotSuffix[] = ".safetensors";
constexpr char kLogSuffix[] = ".log";
constexpr char kPinPrefix[] = "pin-";
constexpr size_t kPinNameBytesMax = 64;

std::vector<fs::path> Entries(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  fs::directory_iterator at(folder, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    entries.push_back(at->path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

std::optional<int64_t> Number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// The generation that a file name stands for, if it does.
std::optional<Generation> ParseGeneration(const fs::path& path) {
  std::string name = path.filename().string();
  if (!name.ends_with(kSnapshotSuffix)) return std::nullopt;
  name.resize(name.size() - (sizeof(kSnapshotSuffix) - 1));
  const size_t dash = name.find('-');
  if (dash == std::string::npos) return std::nullopt;
  const auto number = Number(std::string_view(name).substr(0, dash));
  const auto step = Number(std::string_view(name).substr(dash + 1));
  if (!number || !step) return std::nullopt;
  return Generation{*number, *step, path};
}

absl::Status MakeFolder(const fs::path& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return FileError("making a folder", errno);
  }
  return absl::OkStatus();
}

// Links `from` to `to`, in place of what is there, durably.
absl::Status Replace(const fs::path& from, const fs::path& to, const std::string& point) {
  const std::string aside = to.string() + kUnfinishedSuffix;
  ::unlink(aside.c_str());
  if (const int error = FAIL_POINT(point + ".link")) return FileError("link", error);
  if (::link(from.c_str(), aside.c_str()) != 0) return FileError("link", errno);
  if (const int error = FAIL_POINT(point + ".rename")) return FileError("rename", error);
  if (::rename(aside.c_str(), to.c_str()) != 0) return FileError("rename", errno);
  // Where both are the same file already, rename leaves the other name.
  ::unlink(aside.c_str());
  return SyncFolder(to.parent_path(), point + ".folder");
}

}  // namespace

absl::Status SessionFolder::Make() const {
  MNEMO_RETURN_IF_ERROR(MakeFolder(path_));
  return SyncFolder(path_.parent_path(), "session.folder");
}

std::vector<Generation> SessionFolder::Generations() const {
  std::vector<Generation> generations;
  for (const fs::path& entry : Entries(path_)) {
    if (auto generation = ParseGeneration(entry)) generations.push_back(*std::move(generation));
  }
  std::ranges::sort(generations, std::greater(), &Generation::number);
  return generations;
}

Generation SessionFolder::Next(int64_t step) const {
  int64_t last = 0;
  for (const fs::path& entry : Entries(path_)) {
    // Those that were set aside count too: a number is never used twice.
    const std::string name = entry.filename().string();
    if (const auto number = Number(name.substr(0, name.find_first_of("-.")))) {
      last = std::max(last, *number);
    }
  }
  return {last + 1, step, path_ / fmt::format("{:09}-{:012}{}", last + 1, step, kSnapshotSuffix)};
}

void SessionFolder::SetAside(const Generation& generation) const {
  std::error_code ignored;
  fs::rename(generation.path, generation.path.string() + ".rotten", ignored);
}

void SessionFolder::Prune(size_t kept) const {
  const std::vector<Generation> generations = Generations();
  if (generations.empty()) return;
  const int64_t oldest = generations[std::min(kept, generations.size()) - 1].number;
  FAIL_POINT("prune.before");
  for (const fs::path& entry : Entries(path_)) {
    const std::string name = entry.filename().string();
    const auto number = Number(name.substr(0, name.find_first_of("-.")));
    if (number && *number < oldest) ::unlink(entry.c_str());
    FAIL_POINT("prune.removed");
  }
}

fs::path SessionFolder::LogOf(int64_t generation) const {
  return path_ / fmt::format("{:09}{}", generation, kLogSuffix);
}

std::vector<int64_t> SessionFolder::Logs() const {
  std::vector<int64_t> logs;
  for (const fs::path& entry : Entries(path_)) {
    if (entry.extension() != kLogSuffix) continue;
    if (const auto number = Number(entry.stem().string())) logs.push_back(*number);
  }
  std::sort(logs.begin(), logs.end());
  return logs;
}

void SessionFolder::RemoveLogsBefore(int64_t generation) const {
  for (const int64_t log : Logs()) {
    if (log < generation) ::unlink(LogOf(log).c_str());
    FAIL_POINT("log.removed");
  }
}

absl::StatusOr<fs::path> SessionFolder::PinPath(std::string_view name) const {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
  };
  if (name.empty() || name.size() > kPinNameBytesMax || !std::ranges::all_of(name, is_plain)) {
    return WithReason(InvalidArgument("the name of a pinned snapshot has 1 to {} letters, digits "
                                      "and .-_",
                                      kPinNameBytesMax),
                      "INVALID_PIN");
  }
  return path_ / fmt::format("{}{}{}", kPinPrefix, name, kSnapshotSuffix);
}

absl::Status SessionFolder::Pin(std::string_view name) const {
  MNEMO_ASSIGN_OR_RETURN(const fs::path pin, PinPath(name));
  const std::vector<std::string> pins = Pins();
  if (pins.size() >= kPinsMax && std::ranges::find(pins, name) == pins.end()) {
    return WithReason(ResourceExhausted("there are {} pinned snapshots, which is the most; use one "
                                        "of their names again: {}",
                                        pins.size(), fmt::join(pins, ", ")),
                      "TOO_MANY_PINS");
  }
  const std::vector<Generation> generations = Generations();
  if (generations.empty()) return NotFound("the session has no snapshot");
  return Replace(generations.front().path, pin, "pin");
}

absl::StatusOr<fs::path> SessionFolder::FindPin(std::string_view name) const {
  MNEMO_ASSIGN_OR_RETURN(const fs::path pin, PinPath(name));
  std::error_code error;
  if (fs::exists(pin, error)) return pin;
  return WithReason(
      NotFound("no snapshot is pinned as '{}'; there are: {}", name, fmt::join(Pins(), ", ")),
      "PIN_NOT_FOUND");
}

absl::StatusOr<Generation> SessionFolder::Rewind(std::string_view name, int64_t step) const {
  MNEMO_ASSIGN_OR_RETURN(const fs::path pin, FindPin(name));
  Generation next = Next(step);
  MNEMO_RETURN_IF_ERROR(Replace(pin, next.path, "rewind"));
  return next;
}

absl::Status SessionFolder::Unpin(std::string_view name) const {
  MNEMO_ASSIGN_OR_RETURN(const fs::path pin, PinPath(name));
  ::unlink(pin.c_str());
  return absl::OkStatus();
}

std::vector<std::string> SessionFolder::Pins() const {
  std::vector<std::string> pins;
  for (const fs::path& entry : Entries(path_)) {
    const std::string name = entry.filename().string();
    if (!name.starts_with(kPinPrefix) || !name.ends_with(kSnapshotSuffix)) continue;
    const size_t start = sizeof(kPinPrefix) - 1;
    pins.push_back(name.substr(start, name.size() - start - (sizeof(kSnapshotSuffix) - 1)));
  }
  return pins;
}

// An epoch is stored with its checksum: 16 hexadecimal digits, a space, 8 of the CRC-32C.
int64_t SessionFolder::ReadEpoch() const {
  std::ifstream file(path_ / "epoch");
  std::string digits, crc;
  if (!(file >> digits >> crc)) return 0;
  if (crc != fmt::format("{:08x}", Crc32c(std::as_bytes(std::span(digits))))) return 0;
  return static_cast<int64_t>(std::strtoull(digits.c_str(), nullptr, 16));
}

absl::Status SessionFolder::StoreEpoch(int64_t epoch) const {
  const std::string digits = fmt::format("{:016x}", static_cast<uint64_t>(epoch));
  const std::string text =
      fmt::format("{} {:08x}\n", digits, Crc32c(std::as_bytes(std::span(digits))));
  MNEMO_ASSIGN_OR_RETURN(auto file, DurableFile::Create(path_ / "epoch", "epoch"));
  MNEMO_RETURN_IF_ERROR(file->Write(std::as_bytes(std::span(text))));
  return file->Commit();
}

int64_t SessionFolder::ByteCount() const {
  int64_t bytes = 0;
  for (const fs::path& entry : Entries(path_)) {
    struct stat info {};
    if (::stat(entry.c_str(), &info) == 0)
      bytes += info.st_size / static_cast<off_t>(info.st_nlink);
  }
  return bytes;
}

void SessionFolder::Remove() const {
  std::error_code ignored;
  // Out of the list first, so that a folder that is half removed is no session.
  const fs::path aside = path_.string() + kUnfinishedSuffix;
  fs::rename(path_, aside, ignored);
  FAIL_POINT("delete.renamed");
  fs::remove_all(aside, ignored);
}

absl::StatusOr<std::unique_ptr<StateFolder>> StateFolder::Open(const fs::path& path) {
  const auto refuse = [&](std::string_view what) {
    return FailedPrecondition("--state-dir {}: {}", path.string(), what);
  };
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (!MakeFolder(path).ok()) return refuse(std::strerror(errno));
  const int lock = ::open((path / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) return refuse(std::strerror(errno));
  std::unique_ptr<StateFolder> folder(new StateFolder(path, lock));
  if (::flock(lock, LOCK_EX | LOCK_NB) != 0) {
    return refuse("another mnemosyned uses it; give each daemon a folder of its own");
  }
  for (const char* name : {"models", "sessions", "expired"}) {
    if (const absl::Status made = MakeFolder(path / name); !made.ok()) {
      return refuse(ErrorMessage(made));
    }
  }
  for (const fs::path& place : {path / "models", path / "sessions"}) {
    for (const fs::path& entry : Entries(place)) {
      if (entry.string().ends_with(kUnfinishedSuffix)) fs::remove_all(entry, error);
    }
  }
  for (const fs::path& session : Entries(path / "sessions")) {
    for (const fs::path& entry : Entries(session)) {
      if (entry.string().ends_with(kUnfinishedSuffix)) ::unlink(entry.c_str());
    }
  }
  return folder;
}

StateFolder::~StateFolder() { ::close(lock_); }

SessionFolder StateFolder::Session(std::string_view id) const {
  return SessionFolder(path_ / "sessions" / id);
}

std::vector<std::string> StateFolder::Sessions() const {
  std::vector<std::string> sessions;
  for (const fs::path& entry : Entries(path_ / "sessions")) {
    std::error_code error;
    if (fs::is_directory(entry, error)) sessions.push_back(entry.filename().string());
  }
  return sessions;
}

absl::Status StateFolder::Expire(std::string_view id, size_t kept) const {
  const fs::path from = path_ / "sessions" / id;
  if (::rename(from.c_str(), (path_ / "expired" / id).c_str()) != 0) {
    return FileError("rename", errno);
  }
  std::vector<std::pair<fs::file_time_type, fs::path>> expired;
  for (const fs::path& entry : Entries(path_ / "expired")) {
    std::error_code error;
    expired.emplace_back(fs::last_write_time(entry, error), entry);
  }
  std::sort(expired.begin(), expired.end());
  for (size_t i = 0; i + kept < expired.size(); ++i) {
    std::error_code ignored;
    fs::remove_all(expired[i].second, ignored);
  }
  return SyncFolder(path_ / "sessions", "expire.folder");
}

absl::Status StateFolder::KeepModel(std::string_view hash, std::span<const std::byte> file) const {
  if (FindModel(hash)) return absl::OkStatus();
  const fs::path path = path_ / "models" / fmt::format("{}{}", hash, kSnapshotSuffix);
  MNEMO_ASSIGN_OR_RETURN(auto copy, DurableFile::Create(path, "model"));
  MNEMO_RETURN_IF_ERROR(copy->Write(file));
  return copy->Commit();
}

std::optional<fs::path> StateFolder::FindModel(std::string_view hash) const {
  fs::path path = path_ / "models" / fmt::format("{}{}", hash, kSnapshotSuffix);
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  return path;
}

int64_t StateFolder::ByteCount() const {
  int64_t bytes = 0;
  for (const std::string& id : Sessions()) bytes += Session(id).ByteCount();
  return bytes;
}

}  // namespace mnemosyne::server
