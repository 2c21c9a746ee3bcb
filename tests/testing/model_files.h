// Models for tests: those of the repository, and small ones made in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/lstm_sizes.h"
#include "optim/optimizer_factory.h"

namespace mnemosyne::testing {

// One tensor of a file to be made.
struct FileTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// A safetensors file of float32 tensors.
std::vector<std::byte> MakeSafetensors(const std::map<std::string, std::string>& metadata,
                                       const std::map<std::string, FileTensor>& tensors);

// The parts of a model file of kind `lstm` or `rnnprop` with random weights, to be changed by tests
// that want a wrong one.
struct LstmFile {
  explicit LstmFile(const kernels::LstmSizes& sizes, uint32_t seed = 1);

  std::map<std::string, std::string> metadata;
  std::map<std::string, FileTensor> tensors;

  std::vector<std::byte> bytes() const { return MakeSafetensors(metadata, tensors); }

  // The optimizer of this file.
  optim::OptimizerFactoryPtr Make(const std::string& name = "test",
                                  const std::string& version = "1") const;
};

// The folder of the sources.
std::string SourceFolder();

// A model of the repository or, for a version that is not there, of tests/golden/models, with
// values of its config replaced.
optim::OptimizerFactoryPtr RepositoryModel(const std::string& name, const std::string& version,
                                           const std::map<std::string, size_t>& config = {});

// The same of the flagship.
optim::OptimizerFactoryPtr MnemosyneModel(const std::string& version,
                                          const std::map<std::string, size_t>& config = {});

// The optimizers of all models in the repository of a kind that this build knows.
std::vector<optim::OptimizerFactoryPtr> RepositoryModels();

}  // namespace mnemosyne::testing
