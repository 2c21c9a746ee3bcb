#include "server/model/model_registry.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/safetensors.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "optim/learned_optimizer.h"
#include "optim/model.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

namespace fs = std::filesystem;

constexpr char kFileName[] = "weights.safetensors";
constexpr size_t kNameBytesMax = 64;

// Names and versions stand in logs, tables and messages: plain ones only.
bool IsPlainName(std::string_view name) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_' || c == '+';
  };
  return !name.empty() && name.size() <= kNameBytesMax && name[0] != '.' &&
         std::ranges::all_of(name, is_plain);
}

// The folders in `folder`, sorted, without those whose name begins with a dot. What cannot be read
// is taken for empty.
std::vector<fs::path> Subfolders(const fs::path& folder) {
  std::vector<fs::path> result;
  std::error_code error;
  fs::directory_iterator at(folder, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    std::error_code ignored;
    if (at->path().filename().native()[0] == '.' || !at->is_directory(ignored)) continue;
    result.push_back(at->path());
  }
  std::sort(result.begin(), result.end());
  return result;
}

absl::StatusOr<optim::OptimizerFactoryPtr> ReadModel(const fs::path& path, const std::string& name,
                                                     const std::string& version) {
  if (!IsPlainName(name) || !IsPlainName(version)) {
    return InvalidArgument(
        "wrong name: the folders of a name and a version have 1 to {} letters, digits and .-_+",
        kNameBytesMax);
  }
  if (optim::OptimizerRegistry::IsClassic(name)) {
    return InvalidArgument("wrong name: {} is an optimizer without weights", name);
  }
  MNEMO_ASSIGN_OR_RETURN(Safetensors file, Safetensors::Read(path, kModelBytesMax));
  MNEMO_ASSIGN_OR_RETURN(auto model, optim::Model::Create(name, version, std::move(file)));
  return optim::MakeLearnedOptimizer(std::move(model));
}

void LogModel(std::string_view words, const optim::OptimizerInfo& info) {
  Log(spdlog::level::info, words,
      {{"model", info.name}, {"version", info.version}, {"weights", info.weights_hash}});
}

void LogReload(const ModelReload& reload) {
  for (const auto& factory : reload.retired) LogModel("model retired", factory->info());
  for (const auto& factory : reload.loaded) LogModel("model loaded", factory->info());
  for (const ModelReload::Refusal& refusal : reload.refused) {
    Log(spdlog::level::warn, "model refused", {{"path", refusal.path}, {"detail", refusal.reason}});
  }
}

}  // namespace

ModelRegistry::ModelRegistry(std::vector<fs::path> folders)
    : folders_(std::move(folders)),
      optimizers_(std::make_shared<const optim::OptimizerRegistry>()) {}

std::shared_ptr<const optim::OptimizerRegistry> ModelRegistry::optimizers() const {
  MutexLock lock(&mutex_);
  return optimizers_;
}

absl::StatusOr<std::vector<std::byte>> ModelRegistry::ReadFile(const std::string& name,
                                                               const std::string& version,
                                                               std::string_view hash) const {
  for (const fs::path& folder : folders_) {
    std::ifstream stream(folder / name / version / kFileName, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(stream)), {});
    const auto bytes = std::as_bytes(std::span(text));
    if (!bytes.empty() && Sha256Hex(bytes) == hash) return std::vector(bytes.begin(), bytes.end());
  }
  return NotFound("the weights {} are in no folder of models any more", hash);
}

absl::StatusOr<optim::OptimizerFactoryPtr> ModelRegistry::Load(const fs::path& path,
                                                               const std::string& name,
                                                               const std::string& version) {
  return ReadModel(path, name, version);
}

void ModelRegistry::ReadFolder(const fs::path& folder, const Models& served, Models& found,
                               ModelReload& reload) {
  for (const fs::path& name : Subfolders(folder)) {
    for (const fs::path& version : Subfolders(name)) {
      const fs::path path = version / kFileName;
      std::error_code error;
      if (!fs::exists(path, error)) continue;
      const Key key(name.filename().string(), version.filename().string());
      const auto before = served.find(key);
      auto read = ReadModel(path, key.first, key.second);
      if (found.contains(key)) {
        read = InvalidArgument("{} {} is also in a folder named before", key.first, key.second);
      } else if (found.size() >= kModelCountMax) {
        read = ResourceExhausted("too many models: the most is {}", kModelCountMax);
      } else if (before != served.end() &&
                 (!read.ok() ||
                  (*read)->info().weights_hash == before->second->info().weights_hash)) {
        found[key] = before->second;
      } else if (read.ok()) {
        found[key] = *read;
      }
      if (!read.ok()) {
        reload.refused.push_back(
            {path.string(), key.first, key.second, std::string(ErrorMessage(read.status()))});
      }
    }
  }
}

ModelReload ModelRegistry::Reload() {
  MutexLock reload_lock(&reload_mutex_);
  ModelReload reload;
  Models found;
  for (const fs::path& folder : folders_) ReadFolder(folder, served_, found, reload);

  std::vector<optim::OptimizerFactoryPtr> learned;
  for (const auto& [key, factory] : found) {
    const auto before = served_.find(key);
    if (before == served_.end() || before->second != factory) reload.loaded.push_back(factory);
    learned.push_back(factory);
  }
  for (const auto& [key, factory] : served_) {
    const auto now = found.find(key);
    if (now == found.end() || now->second != factory) reload.retired.push_back(factory);
  }
  served_ = std::move(found);
  auto optimizers = std::make_shared<const optim::OptimizerRegistry>(std::move(learned));
  {
    MutexLock lock(&mutex_);
    optimizers_.swap(optimizers);
  }
  LogReload(reload);
  return reload;
}

}  // namespace mnemosyne::server
