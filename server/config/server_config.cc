#include "server/config/server_config.h"

#include <unistd.h>

#include <string_view>
#include <variant>

#include "base/error.h"
#include "proto/codec/chunk_grid.h"

namespace mnemosyne::server {
namespace {

using Text = std::string ServerConfig::*;
using TextList = std::vector<std::string> ServerConfig::*;
using Number = int64_t ServerConfig::*;

struct NumberOption {
  Number field;
  int64_t minimum;
  int64_t maximum;
  bool bytes = false;  // Takes units, such as 4MiB.
};

struct ChoiceOption {
  Text field;
  std::vector<std::string> choices;
};

struct Option {
  std::string_view group;
  const char* name;
  std::variant<Text, TextList, NumberOption, ChoiceOption> value;
  const char* help;
};

constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = 1024 * kKiB;
constexpr int64_t kTiB = 1024 * 1024 * kMiB;

// Room in a message for what goes around a cell's payload.
constexpr int64_t kMessageMargin = 16 * kKiB;

const std::vector<Option>& Options() {
  using C = ServerConfig;
  static const std::vector<Option> options = {
      {"Addresses", "--listen", TextList{&C::listen},
       "Address for clients over TCP, as HOST:PORT; port 0 takes a free one. Give it several times "
       "for several addresses, or `none` for no TCP at all. The wire is not encrypted: keep to "
       "loopback unless the network is yours."},
      {"Addresses", "--socket", Text{&C::socket},
       "Path of a Unix-domain socket for clients of the same user; made with permissions for its "
       "owner alone."},
      {"Addresses", "--ready-file", Text{&C::ready_file},
       "File to write once clients are served: a JSON object with pid, listen and socket."},

      {"Computing", "--device", Text{&C::device},
       "Device that steps run on: cpu, cuda:N, or auto for a GPU where there is one."},
      {"Computing", "--threads", NumberOption{&C::threads, 0, 1024},
       "Threads that compute on the CPU; 0 is one for each core."},
      {"Computing", "--isa", ChoiceOption{&C::isa, {"auto", "baseline", "avx2", "avx512"}},
       "Instruction set on the CPU; results are the same bits only on the same one."},

      {"Bounds", "--memory-max", NumberOption{&C::memory_max, 0, 1024 * kTiB, true},
       "Memory that all sessions together may reserve, in bytes or with a unit such as 8GiB; 0 is "
       "half of the machine's."},
      {"Bounds", "--sessions-max", NumberOption{&C::sessions_max, 1, 1'000'000}, "Most sessions."},
      {"Bounds", "--parameters-max", NumberOption{&C::parameters_max, 1, 10'000'000},
       "Most parameters (tensors) of a session."},
      {"Bounds", "--streams-max", NumberOption{&C::streams_max, 1, 1'000'000},
       "Most open streams."},
      {"Bounds", "--queue-max", NumberOption{&C::queue_max, 1, 1'000'000},
       "Most steps and other tasks that wait for the device; beyond it steps are refused for the "
       "moment."},
      {"Bounds", "--message-max", NumberOption{&C::message_max, 64 * kKiB, 64 * kMiB, true},
       "Largest message that is taken, in bytes or with a unit. Clients with gRPC's defaults take "
       "4 MiB."},
      {"Bounds", "--cell-elements", NumberOption{&C::cell_elements, 256, 16'000'000},
       "Elements of a cell, the unit in which a tensor travels; a cell in float32 must fit into a "
       "message."},

      {"Times", "--heartbeat-seconds", NumberOption{&C::heartbeat_seconds, 1, 3600},
       "Seconds of silence after which a stream gets a heartbeat."},
      {"Times", "--step-timeout-seconds", NumberOption{&C::step_timeout_seconds, 1, 86'400},
       "Seconds that a client may be silent in the middle of a step before its stream is ended."},
      {"Times", "--drain-seconds", NumberOption{&C::drain_seconds, 1, 3600},
       "Seconds that a shutdown waits for steps in hand and for clients to leave."},

      {"Logs", "--log-level", ChoiceOption{&C::log_level, {"debug", "info", "warn", "error"}},
       "Least level that is logged, to standard error."},
      {"Logs", "--log-format", ChoiceOption{&C::log_format, {"text", "json"}},
       "How a line of the log looks."},
  };
  return options;
}

CLI::Option* Add(CLI::App& app, ServerConfig& config, const Option& option) {
  if (const auto* text = std::get_if<Text>(&option.value)) {
    return app.add_option(option.name, config.*(*text), option.help);
  }
  if (const auto* list = std::get_if<TextList>(&option.value)) {
    return app.add_option(option.name, config.*(*list), option.help);
  }
  if (const auto* choice = std::get_if<ChoiceOption>(&option.value)) {
    return app.add_option(option.name, config.*(choice->field), option.help)
        ->check(CLI::IsMember(choice->choices));
  }
  const auto& number = std::get<NumberOption>(option.value);
  CLI::Option* added = app.add_option(option.name, config.*(number.field), option.help);
  added->check(CLI::Range(number.minimum, number.maximum));
  if (number.bytes) added->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  return added;
}

int64_t HalfOfMemory() {
  return int64_t{sysconf(_SC_PHYS_PAGES)} * int64_t{sysconf(_SC_PAGE_SIZE)} / 2;
}

}  // namespace

void AddOptions(CLI::App& app, ServerConfig& config) {
  for (const Option& option : Options()) {
    Add(app, config, option)->capture_default_str()->group(std::string(option.group));
  }
  app.set_config("--config", "", "File with any of these options, as `name = value` in TOML.")
      ->group("Files");
}

absl::Status CompleteConfig(ServerConfig& config) {
  std::erase(config.listen, "none");
  if (config.listen.empty() && config.socket.empty()) {
    return InvalidArgument("nothing to listen on: give --listen HOST:PORT or --socket PATH");
  }
  if (config.memory_max == 0) config.memory_max = HalfOfMemory();
  const int64_t cell_bytes = config.cell_elements * int64_t{sizeof(float)};
  if (cell_bytes + kMessageMargin > config.message_max) {
    return InvalidArgument(
        "--cell-elements {} makes cells of {} bytes, which do not fit into messages of "
        "--message-max {} bytes; use at most {} elements",
        config.cell_elements, cell_bytes, config.message_max,
        (config.message_max - kMessageMargin) / int64_t{sizeof(float)});
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::server
