#include "optim/optimizer_registry.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "optim/classic/adam.h"
#include "optim/classic/lion.h"
#include "optim/classic/sgd.h"

namespace mnemosyne::optim {
namespace {

struct Entry {
  const OptimizerInfo* info;
  std::unique_ptr<Optimizer> (*make)(kernels::Backend& backend);
};

// In order of name, then version, oldest first.
constexpr std::array kEntries = {
    Entry{&kAdamInfo, MakeAdam},
    Entry{&kAdamWInfo, MakeAdamW},
    Entry{&kLionInfo, MakeLion},
    Entry{&kSgdInfo, MakeSgd},
};

absl::StatusOr<const Entry*> FindEntry(std::string_view name, std::string_view version) {
  const auto found = std::find_if(kEntries.rbegin(), kEntries.rend(), [&](const Entry& entry) {
    return entry.info->name == name && (version.empty() || entry.info->version == version);
  });
  if (found != kEntries.rend()) return &*found;
  std::vector<std::string> known;
  for (const Entry& entry : kEntries) {
    known.push_back(fmt::format("{} {}", entry.info->name, entry.info->version));
  }
  return WithReason(NotFound("unknown optimizer: {}{}{}, expected one of {}", name,
                             version.empty() ? "" : " ", version, fmt::join(known, ", ")),
                    "UNKNOWN_OPTIMIZER");
}

}  // namespace

std::span<const OptimizerInfo* const> ListOptimizers() {
  static constexpr auto kInfos = [] {
    std::array<const OptimizerInfo*, kEntries.size()> infos{};
    for (size_t i = 0; i < kEntries.size(); ++i) infos[i] = kEntries[i].info;
    return infos;
  }();
  return kInfos;
}

absl::StatusOr<const OptimizerInfo*> FindOptimizer(std::string_view name,
                                                   std::string_view version) {
  MNEMO_ASSIGN_OR_RETURN(const Entry* entry, FindEntry(name, version));
  return entry->info;
}

absl::StatusOr<std::unique_ptr<Optimizer>> CreateOptimizer(std::string_view name,
                                                           std::string_view version,
                                                           kernels::Backend& backend) {
  MNEMO_ASSIGN_OR_RETURN(const Entry* entry, FindEntry(name, version));
  return entry->make(backend);
}

}  // namespace mnemosyne::optim
