// The parameters of well-known networks, as shapes: what steps are timed over.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mnemosyne::bench {

using Shape = std::vector<int64_t>;

struct TensorSet {
  std::string name;
  std::vector<Shape> shapes;
};

// A transformer's block of width `d` with a perceptron of 4 d.
inline void AddBlock(std::vector<Shape>& shapes, int64_t d) {
  for (const Shape& shape : {Shape{d},
                             {d},
                             {3 * d, d},
                             {3 * d},
                             {d, d},
                             {d},
                             {d},
                             {d},
                             {4 * d, d},
                             {4 * d},
                             {d, 4 * d},
                             {d}}) {
    shapes.push_back(shape);
  }
}

// ViT-B/16 (arXiv:2010.11929) with 1,000 classes: 152 tensors, 86.6 million parameters.
inline TensorSet VitB16() {
  constexpr int64_t kWidth = 768;
  std::vector<Shape> shapes = {{1, 1, kWidth}, {1, 197, kWidth}, {kWidth, 3, 16, 16}, {kWidth}};
  for (int i = 0; i < 12; ++i) AddBlock(shapes, kWidth);
  for (const Shape& shape : {Shape{kWidth}, {kWidth}, {1000, kWidth}, {1000}}) {
    shapes.push_back(shape);
  }
  return {"vit_b16", std::move(shapes)};
}

// GPT-2 medium: 292 tensors, 355 million parameters; the read-out shares the embedding.
inline TensorSet Gpt2Medium() {
  constexpr int64_t kWidth = 1024;
  std::vector<Shape> shapes = {{50257, kWidth}, {1024, kWidth}};
  for (int i = 0; i < 24; ++i) AddBlock(shapes, kWidth);
  shapes.push_back({kWidth});
  shapes.push_back({kWidth});
  return {"gpt2_355m", std::move(shapes)};
}

// ResNet-50 (arXiv:1512.03385): 161 tensors, 25.6 million parameters.
inline TensorSet ResNet50() {
  std::vector<Shape> shapes;
  const auto convolution = [&](int64_t out, int64_t in, int64_t size) {
    shapes.push_back({out, in, size, size});
    shapes.push_back({out});  // The normalization's gain and bias.
    shapes.push_back({out});
  };
  convolution(64, 3, 7);
  int64_t in = 64;
  const int blocks[] = {3, 4, 6, 3};
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t width = int64_t{64} << stage;
    for (int block = 0; block < blocks[stage]; ++block) {
      convolution(width, in, 1);
      convolution(width, width, 3);
      convolution(4 * width, width, 1);
      if (block == 0) convolution(4 * width, in, 1);
      in = 4 * width;
    }
  }
  shapes.push_back({1000, 2048});
  shapes.push_back({1000});
  return {"resnet50", std::move(shapes)};
}

inline std::vector<TensorSet> AllTensorSets() {
  return {VitB16(),
          Gpt2Medium(),
          ResNet50(),
          {"one_1e8", {{100'000'000}}},
          {"small_10000x1000", std::vector<Shape>(10'000, Shape{1'000})}};
}

}  // namespace mnemosyne::bench
