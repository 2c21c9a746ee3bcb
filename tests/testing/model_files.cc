#include "tests/testing/model_files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "optim/learned_optimizer.h"
#include "tests/testing/random_floats.h"
#include "tests/testing/safetensors_file.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::testing {
namespace {

namespace fs = std::filesystem;

FileTensor RandomTensor(std::vector<int64_t> shape, uint32_t seed) {
  size_t count = 1;
  for (const int64_t size : shape) count *= static_cast<size_t>(size);
  FileTensor tensor{std::move(shape), NormalFloats(count, seed)};
  const float scale = 1 / std::sqrt(static_cast<float>(tensor.shape[0]));
  for (float& value : tensor.values) value *= scale;
  return tensor;
}

optim::OptimizerFactoryPtr MakeFactory(std::string name, std::string version, Safetensors file) {
  auto model = optim::Model::Create(std::move(name), std::move(version), std::move(file));
  if (!model.ok()) ADD_FAILURE() << model.status();
  auto factory = optim::MakeLearnedOptimizer(*std::move(model));
  return factory.ok() ? *std::move(factory) : nullptr;
}

std::vector<fs::path> Sorted(const fs::path& folder) {
  std::vector<fs::path> entries;
  for (const auto& entry : fs::directory_iterator(folder)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  return entries;
}

}  // namespace

std::vector<std::byte> MakeSafetensors(const std::map<std::string, std::string>& metadata,
                                       const std::map<std::string, FileTensor>& tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t bytes = tensor.values.size() * sizeof(float);
    header[name] = {{"dtype", "F32"},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + bytes}}};
    data.append(reinterpret_cast<const char*>(tensor.values.data()), bytes);
  }
  return SafetensorsFile(header.dump(), data);
}

LstmFile::LstmFile(const kernels::LstmSizes& sizes, uint32_t seed) {
  const nlohmann::json config = {{"kind", sizes.normalized ? "rnnprop" : "lstm"},
                                 {"layers", sizes.layers},
                                 {"hidden", sizes.hidden},
                                 {"output_scale", 0.01}};
  metadata = {{"format", "mnemosyne-theta-1"}, {"config", config.dump()}};
  const auto hidden = static_cast<int64_t>(sizes.hidden);
  if (sizes.normalized) {
    tensors["learned.in.w"] = RandomTensor({2, hidden}, ++seed);
    tensors["learned.in.b"] = RandomTensor({hidden}, ++seed);
  }
  for (size_t layer = 0; layer < sizes.layers; ++layer) {
    const std::string name = "learned.layer" + std::to_string(layer);
    const auto inputs = static_cast<int64_t>(kernels::LstmInputCount(sizes, layer));
    tensors[name + ".w"] = RandomTensor({inputs, 4 * hidden}, ++seed);
    tensors[name + ".b"] = RandomTensor({4 * hidden}, ++seed);
  }
  tensors["learned.out.w"] = RandomTensor({hidden, 1}, ++seed);
  tensors["learned.out.b"] = RandomTensor({1}, ++seed);
}

optim::OptimizerFactoryPtr LstmFile::Make(const std::string& name,
                                          const std::string& version) const {
  return MakeFactory(name, version, *Safetensors::Parse(bytes()));
}

std::string SourceFolder() { return MNEMOSYNE_SOURCE_FOLDER; }

optim::OptimizerFactoryPtr RepositoryModel(const std::string& name, const std::string& version,
                                           const std::map<std::string, size_t>& config) {
  const fs::path root = SourceFolder();
  fs::path path = root / "models" / name / version / "weights.safetensors";
  if (!fs::exists(path)) {
    path = root / "tests/golden/models" / name / version / "weights.safetensors";
  }
  const Safetensors file = *Safetensors::Read(path, size_t{8} << 20);
  std::map<std::string, std::string> metadata = file.metadata();
  auto table = nlohmann::json::parse(metadata.at("config"));
  for (const auto& [key, value] : config) table[key] = value;
  metadata["config"] = table.dump();
  std::map<std::string, FileTensor> tensors;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    tensors[tensor.name] = {tensor.shape, *file.Floats(tensor)};
  }
  return MakeFactory(name, version, *Safetensors::Parse(MakeSafetensors(metadata, tensors)));
}

optim::OptimizerFactoryPtr MnemosyneModel(const std::string& version,
                                          const std::map<std::string, size_t>& config) {
  return RepositoryModel("mnemosyne", version, config);
}

std::vector<optim::OptimizerFactoryPtr> RepositoryModels() {
  std::vector<optim::OptimizerFactoryPtr> factories;
  for (const fs::path& name : Sorted(fs::path(SourceFolder()) / "models")) {
    if (!fs::is_directory(name)) continue;
    for (const fs::path& version : Sorted(name)) {
      const fs::path path = version / "weights.safetensors";
      if (!fs::exists(path)) continue;
      auto file = Safetensors::Read(path, size_t{8} << 20);
      if (!file.ok()) {
        ADD_FAILURE() << file.status();
        continue;
      }
      auto factory = MakeFactory(name.filename(), version.filename(), *std::move(file));
      if (factory != nullptr) factories.push_back(std::move(factory));
    }
  }
  return factories;
}

}  // namespace mnemosyne::testing
