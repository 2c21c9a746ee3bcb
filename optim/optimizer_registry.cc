#include "optim/optimizer_registry.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "optim/classic/adam.h"
#include "optim/classic/lion.h"
#include "optim/classic/sgd.h"
#include "optim/version_order.h"

namespace mnemosyne::optim {
namespace {

// An optimizer without weights.
class ClassicFactory final : public OptimizerFactory {
 public:
  using Make = std::unique_ptr<Optimizer> (*)(kernels::Backend& backend);

  constexpr ClassicFactory(const OptimizerInfo& info, Make make) : info_(info), make_(make) {}

  const OptimizerInfo& info() const override { return info_; }
  absl::StatusOr<std::unique_ptr<Optimizer>> Create(kernels::Backend& backend) const override {
    return make_(backend);
  }

 private:
  const OptimizerInfo& info_;
  const Make make_;
};

const std::array<ClassicFactory, 4>& ClassicFactories() {
  static const std::array<ClassicFactory, 4> factories = {
      ClassicFactory(kAdamInfo, MakeAdam), ClassicFactory(kAdamWInfo, MakeAdamW),
      ClassicFactory(kLionInfo, MakeLion), ClassicFactory(kSgdInfo, MakeSgd)};
  return factories;
}

bool ComesBefore(const OptimizerFactoryPtr& a, const OptimizerFactoryPtr& b) {
  if (a->info().name != b->info().name) return a->info().name < b->info().name;
  return IsOlderVersion(a->info().version, b->info().version);
}

}  // namespace

OptimizerRegistry::OptimizerRegistry(std::vector<OptimizerFactoryPtr> learned)
    : factories_(std::move(learned)) {
  for (const ClassicFactory& factory : ClassicFactories()) {
    // Lives for ever: nobody owns it.
    factories_.emplace_back(OptimizerFactoryPtr(), &factory);
  }
  std::sort(factories_.begin(), factories_.end(), ComesBefore);
}

bool OptimizerRegistry::IsClassic(std::string_view name) {
  return std::ranges::any_of(ClassicFactories(), [&](const ClassicFactory& factory) {
    return factory.info().name == name;
  });
}

absl::StatusOr<OptimizerFactoryPtr> OptimizerRegistry::Find(std::string_view name,
                                                            std::string_view version,
                                                            std::string_view weights_hash) const {
  std::vector<std::string> known, hashes;
  // The newest first.
  for (auto at = factories_.rbegin(); at != factories_.rend(); ++at) {
    const OptimizerInfo& info = (*at)->info();
    known.insert(known.begin(), fmt::format("{} {}", info.name, info.version));
    if (info.name != name || (!version.empty() && info.version != version)) continue;
    if (weights_hash.empty() || info.weights_hash == weights_hash) return *at;
    hashes.push_back(info.weights_hash.empty()
                         ? fmt::format("{} {} has no weights", info.name, info.version)
                         : fmt::format("{} {} has {}", info.name, info.version, info.weights_hash));
  }
  if (!hashes.empty()) {
    return WithReason(NotFound("unknown weights: {}, {}", weights_hash, fmt::join(hashes, ", ")),
                      "UNKNOWN_WEIGHTS");
  }
  return WithReason(NotFound("unknown optimizer: {}{}{}, expected one of {}", name,
                             version.empty() ? "" : " ", version, fmt::join(known, ", ")),
                    "UNKNOWN_OPTIMIZER");
}

}  // namespace mnemosyne::optim
