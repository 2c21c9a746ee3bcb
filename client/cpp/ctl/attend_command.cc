// `mnemosynectl attend`: FLT attention on arrays in files.
#include <fmt/format.h>
#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "client/cpp/channel.h"
#include "client/cpp/ctl/array_file.h"
#include "client/cpp/ctl/command.h"
#include "client/cpp/ctl/json.h"
#include "client/cpp/rpc_status.h"
#include "mnemosyne/v1/attention_service.grpc.pb.h"

namespace mnemosyne::ctl {
namespace {

constexpr size_t kPartBytes = size_t{1} << 20;
constexpr double kCallSecondsMin = 600;

struct AttendOptions {
  std::string q, k, v, positions, out;
  std::string feature_map = "favor_plus", rpe = "none";
  std::vector<float> parameters;
  int features = 64, waves = 32, modes = 8;
  double frequency_scale = 1, norm_max = 0.5;
  uint64_t seed = 0;
  bool causal = false, is_signed = false, multiplicative = false, squared = false, clamp = false;
};

using Stream = grpc::ClientReaderWriter<v1::AttendRequest, v1::AttendResponse>;

// Writes fail once the stream has ended; why it has is told by its status.
void SendTensor(Stream& stream, v1::AttentionTensor tensor, const Array& array) {
  const auto* const data = reinterpret_cast<const char*>(array.values.data());
  const size_t size = array.values.size() * sizeof(float);
  for (size_t offset = 0; offset < size; offset += kPartBytes) {
    v1::AttendRequest request;
    request.mutable_data()->set_tensor(tensor);
    request.mutable_data()->set_offset(static_cast<int64_t>(offset));
    request.mutable_data()->set_payload(data + offset, std::min(kPartBytes, size - offset));
    if (!stream.Write(request)) return;
  }
}

v1::AttendRequest OpenRequest(const AttendOptions& options, const Array& q, const Array& v) {
  v1::AttendRequest request;
  v1::AttentionKernel& kernel = *request.mutable_open()->mutable_kernel();
  kernel.set_heads(static_cast<int32_t>(q.shape[1]));
  kernel.set_dim(static_cast<int32_t>(q.shape[3]));
  kernel.set_value_dim(static_cast<int32_t>(v.shape[3]));
  kernel.set_feature_map(options.feature_map);
  kernel.set_features(options.features);
  kernel.set_seed(options.seed);
  kernel.set_causal(options.causal);
  v1::PositionalEncoding& encoding = *kernel.mutable_encoding();
  encoding.set_kind(options.rpe);
  encoding.set_waves(options.waves);
  encoding.set_modes(options.modes);
  encoding.set_signed_(options.is_signed);
  encoding.set_multiplicative(options.multiplicative);
  encoding.set_squared(options.squared);
  encoding.set_clamp_negative_masks(options.clamp);
  encoding.set_frequency_scale(options.frequency_scale);
  encoding.set_norm_max(options.norm_max);
  const size_t heads = static_cast<size_t>(q.shape[1]);
  // One head's parameters do for all.
  const size_t copies = options.parameters.empty() ? 0 : heads;
  for (size_t copy = 0; copy < copies; ++copy) {
    for (const float number : options.parameters) encoding.add_parameters(number);
  }
  return request;
}

// Positions as [length, l], or [batch, length, l]; by default 0, 1, 2, ...
absl::StatusOr<Array> PositionsOf(const AttendOptions& options, int64_t length) {
  Array positions;
  if (!options.positions.empty()) {
    MNEMO_ASSIGN_OR_RETURN(positions, ReadArray(options.positions));
    if (positions.shape.size() == 1) positions.shape.push_back(1);
    return positions;
  }
  positions.shape = {length, 1};
  for (int64_t i = 0; i < length; ++i) positions.values.push_back(static_cast<float>(i));
  return positions;
}

absl::Status CheckShapes(const Array& q, const Array& k, const Array& v) {
  const auto is_block = [](const Array& x) { return x.shape.size() == 4; };
  const bool fits = is_block(q) && is_block(k) && is_block(v) && q.shape == k.shape &&
                    std::equal(q.shape.begin(), q.shape.begin() + 3, v.shape.begin());
  if (fits) return absl::OkStatus();
  return InvalidArgument(
      "wrong shapes: q is {}, k {}, v {}; expected [batch, heads, length, dim], and for v "
      "[batch, heads, length, value_dim]",
      ShapeText(q.shape), ShapeText(k.shape), ShapeText(v.shape));
}

absl::Status RunAttend(const GlobalOptions& globals, const AttendOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const Array q, ReadArray(options.q));
  MNEMO_ASSIGN_OR_RETURN(const Array k, ReadArray(options.k));
  MNEMO_ASSIGN_OR_RETURN(const Array v, ReadArray(options.v));
  MNEMO_RETURN_IF_ERROR(CheckShapes(q, k, v));
  const int64_t length = q.shape[2];
  MNEMO_ASSIGN_OR_RETURN(const Array positions, PositionsOf(options, length));

  MNEMO_ASSIGN_OR_RETURN(const Credentials credentials, LoadCredentials(globals.credentials));
  MNEMO_ASSIGN_OR_RETURN(const std::string target, ChannelTarget(globals.address));
  MNEMO_RETURN_IF_ERROR(CheckCredentials(target, credentials));
  const auto stub = v1::AttentionService::NewStub(MakeChannel(target, credentials));
  grpc::ClientContext context;
  for (const auto& [key, value] : CallMetadata(credentials)) context.AddMetadata(key, value);
  const double seconds = std::max(globals.timeout_seconds, kCallSecondsMin);
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(static_cast<int64_t>(1000 * seconds)));
  const auto started = std::chrono::steady_clock::now();
  const std::unique_ptr<Stream> stream = stub->Attend(&context);

  v1::AttendRequest request = OpenRequest(options, q, v);
  v1::PositionalEncoding& encoding = *request.mutable_open()->mutable_kernel()->mutable_encoding();
  encoding.set_positions(static_cast<int32_t>(positions.shape.back()));
  stream->Write(request);
  request.mutable_begin()->set_batch(q.shape[0]);
  request.mutable_begin()->set_length(length);
  request.mutable_begin()->set_positions_per_batch(positions.shape.size() == 3);
  stream->Write(request);
  SendTensor(*stream, v1::ATTENTION_TENSOR_QUERIES, q);
  SendTensor(*stream, v1::ATTENTION_TENSOR_KEYS, k);
  SendTensor(*stream, v1::ATTENTION_TENSOR_VALUES, v);
  if (options.rpe != "none") SendTensor(*stream, v1::ATTENTION_TENSOR_POSITIONS, positions);
  request.mutable_end();
  stream->Write(request);
  stream->WritesDone();

  std::string bytes;
  v1::AttendResponse response;
  v1::AttendDone done;
  while (stream->Read(&response)) {
    if (response.has_data()) bytes += response.data().payload();
    if (response.has_done()) done = response.done();
  }
  MNEMO_RETURN_IF_ERROR(FromGrpc(stream->Finish()));
  Array out;
  out.shape = v.shape;
  out.values.resize(bytes.size() / sizeof(float));
  std::copy_n(bytes.data(), out.values.size() * sizeof(float),
              reinterpret_cast<char*>(out.values.data()));
  MNEMO_RETURN_IF_ERROR(WriteNpy(options.out, out));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  if (globals.json) {
    PrintJson({{"out", options.out},
               {"shape", out.shape},
               {"rows", done.rows()},
               {"clamped_rows", done.clamped_rows()},
               {"seconds", took.count()}});
    return absl::OkStatus();
  }
  fmt::print("{} {}, {} rows in {:.3f} s\n", options.out, ShapeText(out.shape), done.rows(),
             took.count());
  if (done.clamped_rows() > 0) {
    fmt::print("{:.2f} % of rows had their denominator held above its floor\n",
               100.0 * static_cast<double>(done.clamped_rows()) / static_cast<double>(done.rows()));
  }
  return absl::OkStatus();
}

}  // namespace

void AddAttendCommand(CLI::App& app, const GlobalOptions& globals, Action& action) {
  CLI::App* const command =
      app.add_subcommand("attend", "Compute FLT attention of arrays in files");
  const auto options = std::make_shared<AttendOptions>();
  const auto array = [&](const char* name, std::string& place, const char* help) {
    return command->add_option(name, place, help);
  };
  command->footer("FILE is a .npy file of float32 or float64, or FILE.safetensors:TENSOR.");
  array("--q", options->q, "FILE of queries [batch, heads, length, dim]")->required();
  array("--k", options->k, "FILE of keys, as the queries")->required();
  array("--v", options->v, "FILE of values [batch, heads, length, value_dim]")->required();
  array("--positions", options->positions,
        "FILE of positions [length, l] or [batch, length, l]; by default 0, 1, 2, ...");
  array("--out", options->out, ".npy file to write the outputs to")->required();
  command->add_flag("--causal", options->causal, "A row sees itself and those before it");
  command
      ->add_option("--feature-map", options->feature_map,
                   "favor_plus, favor_plus_plus, hyperbolic, relu, elu or dpfp")
      ->capture_default_str();
  command->add_option("--features", options->features, "Number of features")->capture_default_str();
  command
      ->add_option("--rpe", options->rpe,
                   "none, gaussian_mixture, shift_invariant, local_box or local_ball")
      ->capture_default_str();
  command
      ->add_option("--parameters", options->parameters,
                   "Parameters of the encoding, the same for all heads; docs/flt.md has them")
      ->delimiter(',');
  command->add_option("--waves", options->waves, "Waves of the mask")->capture_default_str();
  command->add_option("--modes", options->modes, "Gaussians of a mixture")->capture_default_str();
  command
      ->add_option("--frequency-scale", options->frequency_scale,
                   "Standard deviation of frequencies, in cycles per unit of position")
      ->capture_default_str();
  command
      ->add_option("--norm-max", options->norm_max,
                   "Bound of the sum of the weights' magnitudes; 0 for none")
      ->capture_default_str();
  command->add_flag("--signed", options->is_signed, "f(z) may differ from f(-z)");
  command->add_flag("--multiplicative", options->multiplicative, "The mask is a factor");
  command->add_flag("--squared", options->squared, "A multiplicative mask is a square");
  command->add_flag("--clamp", options->clamp, "Take a mask that may be negative");
  command->add_option("--seed", options->seed, "Of projection and frequencies")
      ->capture_default_str();
  command->callback([&globals, &action, options] {
    action = [&globals, options] { return RunAttend(globals, *options); };
  });
}

}  // namespace mnemosyne::ctl
