#include "server/config/machine.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace mnemosyne::server {
namespace {

// In a container these are the container's own limits (control groups, version 2).
constexpr char kMemoryLimitFile[] = "/sys/fs/cgroup/memory.max";
constexpr char kCpuQuotaFile[] = "/sys/fs/cgroup/cpu.max";

}  // namespace

int64_t UsableMemoryBytes() {
  const int64_t machine = int64_t{sysconf(_SC_PHYS_PAGES)} * int64_t{sysconf(_SC_PAGE_SIZE)};
  int64_t limit = 0;  // The file may hold the word `max`, which reads as nothing.
  if (std::ifstream file(kMemoryLimitFile); file >> limit && limit > 0) {
    return std::min(machine, limit);
  }
  return machine;
}

int64_t UsableCores() {
  cpu_set_t set;
  int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  double quota = 0;
  double period = 0;
  if (std::ifstream file(kCpuQuotaFile); file >> quota >> period && quota > 0 && period > 0) {
    cores = std::min(cores, static_cast<int64_t>(std::ceil(quota / period)));
  }
  return std::max<int64_t>(cores, 1);
}

int64_t RaiseOpenFileLimit(int64_t needed) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const auto wanted = std::min(static_cast<rlim_t>(needed), limit.rlim_max);
  if (limit.rlim_cur < wanted) {
    limit.rlim_cur = wanted;
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  }
  constexpr rlim_t kMost = std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(std::min(limit.rlim_cur, kMost));
}

std::string FindInstalledModels() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return "";
  for (const char* relative : {"../share/mnemosyne/models", "../../../models"}) {
    const auto folder = (program.parent_path() / relative).lexically_normal();
    if (std::filesystem::is_directory(folder, error)) return folder.string();
  }
  return "";
}

}  // namespace mnemosyne::server
