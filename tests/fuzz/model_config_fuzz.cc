// Feeds arbitrary configurations to the learned optimizers. The file of weights gets the tensors
// that the configuration asks for, zeros, as the errors name them one by one: so a configuration is
// tried to its end. Each must be refused, or give an optimizer, in little memory and time.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/safetensors.h"
#include "optim/learned_optimizer.h"
#include "optim/model.h"
#include "tests/fuzz/json_mutator.h"

namespace {

using Shapes = std::map<std::string, std::vector<int64_t>>;

constexpr int kTensorsMax = 128;
constexpr int64_t kElementsMax = 1 << 16;

int64_t ElementsOf(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t extent : shape) {
    if (__builtin_mul_overflow(elements, extent, &elements)) return kElementsMax + 1;
  }
  return elements;
}

std::vector<std::byte> FileOf(const std::string& config, const Shapes& shapes) {
  nlohmann::json header = {{"__metadata__", {{"config", config}, {"format", "mnemosyne-theta-1"}}}};
  int64_t bytes = 0;
  for (const auto& [name, shape] : shapes) {
    const int64_t end = bytes + ElementsOf(shape) * int64_t{sizeof(float)};
    header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {bytes, end}}};
    bytes = end;
  }
  const std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::vector<std::byte> file;
  for (size_t i = 0; i < 8; ++i) file.push_back(static_cast<std::byte>(text.size() >> (8 * i)));
  for (const char c : text) file.push_back(static_cast<std::byte>(c));
  file.resize(file.size() + static_cast<size_t>(bytes));
  return file;
}

// The tensor that `message` misses: "missing tensor: 'name', of shape [2, 3]".
std::optional<Shapes::value_type> MissingTensor(std::string_view message) {
  constexpr std::string_view kStart = "missing tensor: '";
  constexpr std::string_view kMiddle = "', of shape [";
  const size_t middle = message.find(kMiddle);
  if (!message.starts_with(kStart) || middle == std::string_view::npos) return std::nullopt;
  std::string numbers(message.substr(middle + kMiddle.size()));
  for (char& c : numbers) c = c == ',' || c == ']' ? ' ' : c;
  std::istringstream stream(numbers);
  std::vector<int64_t> shape;
  for (int64_t extent = 0; stream >> extent;) shape.push_back(extent);
  return Shapes::value_type(message.substr(kStart.size(), middle - kStart.size()), shape);
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return mnemosyne::fuzz::JsonMutator(seed).Mutate(data, size, max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string config(reinterpret_cast<const char*>(data), size);
  Shapes shapes;
  for (int i = 0; i < kTensorsMax; ++i) {
    auto file = mnemosyne::Safetensors::Parse(FileOf(config, shapes));
    if (!file.ok()) return 0;
    auto model = mnemosyne::optim::Model::Create("fuzz", "1", *std::move(file));
    if (!model.ok()) return 0;
    const auto made = mnemosyne::optim::MakeLearnedOptimizer(*std::move(model));
    if (made.ok()) return 0;
    const auto missing = MissingTensor(mnemosyne::ErrorMessage(made.status()));
    if (!missing || ElementsOf(missing->second) > kElementsMax) return 0;
    if (!shapes.insert(*missing).second) std::abort();  // It is there.
  }
  return 0;
}
