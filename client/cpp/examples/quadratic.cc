// Trains a model of two tensors: the loss sum (p - 3)^2 / 2, whose gradient is p - 3. Start a
// daemon, then run `quadratic [address]`.
#include <cstdio>
#include <vector>

#include "mnemosyne/client.h"

int main(int argc, char** argv) {
  auto client = mnemosyne::Client::Connect(argc > 1 ? argv[1] : mnemosyne::kDefaultAddress);
  if (!client.ok()) return std::puts(client.status().ToString().c_str()), 1;

  mnemosyne::v1::SessionSpec spec;
  spec.set_optimizer("sgd");
  (*spec.mutable_hyperparameters())["learning_rate"] = 0.1;
  for (const int size : {1000, 10}) {
    auto* parameter = spec.add_parameters();
    parameter->set_name("tensor" + std::to_string(size));
    parameter->add_shape(size);
  }
  auto session = (*client)->CreateSession(spec);
  if (!session.ok()) return std::puts(session.status().ToString().c_str()), 1;
  auto stream = (*client)->OpenStream(session->key());
  if (!stream.ok()) return std::puts(stream.status().ToString().c_str()), 1;

  std::vector<float> weight(1000, 0), bias(10, 0), weight_gradient(1000), bias_gradient(10);
  for (int step = 1; step <= 100; ++step) {
    double loss = 0;
    auto differentiate = [&](const std::vector<float>& values, std::vector<float>& gradient) {
      for (size_t i = 0; i < values.size(); ++i) {
        gradient[i] = values[i] - 3;
        loss += gradient[i] * gradient[i] / 2;
      }
    };
    differentiate(weight, weight_gradient);
    differentiate(bias, bias_gradient);

    const std::span<const float> gradients[] = {weight_gradient, bias_gradient};
    const std::span<float> parameters[] = {weight, bias};
    auto result = (*stream)->StepAndApply(gradients, parameters);
    if (!result.ok()) return std::puts(result.status().ToString().c_str()), 1;
    if (step % 10 == 0) std::printf("step %3d  loss %.4f\n", step, loss);
  }
  return (*client)->DeleteSession(session->key()).ok() ? 0 : 1;
}
