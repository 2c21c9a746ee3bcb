// The models that the daemon serves: folders of weights, read at the start and whenever asked.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "optim/optimizer_registry.h"

namespace mnemosyne::server {

// Bounds on what folders of models may hold.
inline constexpr size_t kModelBytesMax = size_t{8} << 20;
inline constexpr size_t kModelCountMax = 256;

// What a reload did.
struct ModelReload {
  struct Refusal {
    std::string path;
    std::string name;
    std::string version;
    std::string reason;
  };
  std::vector<optim::OptimizerFactoryPtr> loaded;   // New, or with other weights than before.
  std::vector<optim::OptimizerFactoryPtr> retired;  // Gone, or replaced.
  std::vector<Refusal> refused;                     // Files that cannot be served.
};

// Serves `<folder>/<name>/<version>/weights.safetensors`. A file that is broken is refused and
// takes nothing away: if its name and version are served already, they still are, with the weights
// that they had. What is retired lives until its last session ends, since sessions hold their
// optimizer.
//
// Thread-safety: thread-safe. Reload reads files and takes its time; the others do not wait for it.
class ModelRegistry {
 public:
  // Nothing is read before Reload. Where two folders have the same name and version, the first
  // counts.
  explicit ModelRegistry(std::vector<std::filesystem::path> folders);

  // Reads the folders again; logs what was loaded, retired and refused.
  ModelReload Reload();

  // All optimizers that can be had now, with those that are no models.
  std::shared_ptr<const optim::OptimizerRegistry> optimizers() const;

  // The bytes of the file of weights that is served under this name, version and hash, read again.
  // NotFound if it is no longer there or has other weights by now.
  absl::StatusOr<std::vector<std::byte>> ReadFile(const std::string& name,
                                                  const std::string& version,
                                                  std::string_view hash) const;

  // The optimizer of a file of weights that lies elsewhere; it is not served. InvalidArgument says
  // what is wrong with it.
  static absl::StatusOr<optim::OptimizerFactoryPtr> Load(const std::filesystem::path& path,
                                                         const std::string& name,
                                                         const std::string& version);

  const std::vector<std::filesystem::path>& folders() const { return folders_; }

 private:
  using Key = std::pair<std::string, std::string>;  // Name and version.
  using Models = std::map<Key, optim::OptimizerFactoryPtr>;

  // Reads the models of a folder into `found`, and tells what cannot be read in `reload`. `served`
  // are those of the last time.
  static void ReadFolder(const std::filesystem::path& folder, const Models& served, Models& found,
                         ModelReload& reload);

  const std::vector<std::filesystem::path> folders_;

  Mutex reload_mutex_;  // Held while folders are read; one reload at a time.
  Models served_ ABSL_GUARDED_BY(reload_mutex_);

  mutable Mutex mutex_;
  std::shared_ptr<const optim::OptimizerRegistry> optimizers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server
