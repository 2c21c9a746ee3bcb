#include "server/config/server_config.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string_view>
#include <variant>

#include "base/error.h"
#include "base/status_macros.h"
#include "server/config/machine.h"

namespace mnemosyne::server {
namespace {

using Text = std::string ServerConfig::*;
using TextList = std::vector<std::string> ServerConfig::*;
using Number = int64_t ServerConfig::*;
using Flag = bool ServerConfig::*;

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
  const char* unit;  // What stands for the value in the help.
  std::variant<Text, TextList, Flag, NumberOption, ChoiceOption> value;
  const char* help;
};

constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = 1024 * kKiB;
constexpr int64_t kTiB = 1024 * 1024 * kMiB;

// Room in a message for what goes around a cell's payload.
constexpr int64_t kMessageMargin = 16 * kKiB;

constexpr int64_t kWireMemoryMin = 64 * kMiB;

const std::vector<Option>& Options() {
  using C = ServerConfig;
  static const std::vector<Option> options = {
      {"Addresses", "--listen", "HOST:PORT", TextList{&C::listen},
       "Address for clients over TCP, as HOST:PORT; port 0 takes a free one. Give it several times "
       "for several addresses, or `none` for no TCP at all. Beyond loopback it wants "
       "--tls-certificate."},
      {"Addresses", "--socket", "PATH", Text{&C::socket},
       "Path of a Unix-domain socket for clients of the same user; made with permissions for its "
       "owner alone, and open to the users that the file of --access names."},
      {"Addresses", "--ready-file", "PATH", Text{&C::ready_file},
       "File to write once clients are served: a JSON object with pid, listen and socket."},

      {"Security", "--tls-certificate", "PATH", Text{&C::tls_certificate},
       "PEM file of the daemon's certificate, then those between it and its root. With it, all TCP "
       "addresses speak TLS 1.2 or newer. The TLS files are read again when they change."},
      {"Security", "--tls-key", "PATH", Text{&C::tls_key},
       "PEM file of the certificate's key, without a passphrase."},
      {"Security", "--tls-client-ca", "PATH", Text{&C::tls_client_ca},
       "PEM file of the roots that clients' certificates come from; without it clients show none."},
      {"Security", "--tls-clients", "HOW", ChoiceOption{&C::tls_clients, {"require", "request"}},
       "With --tls-client-ca: whether every client must have a certificate, or may come with an "
       "access token instead."},
      {"Security", "--allow-plaintext", "", Flag{&C::allow_plaintext},
       "Serve addresses beyond loopback without TLS. Whoever sees the packets can read and change "
       "them."},
      {"Security", "--access", "PATH", Text{&C::access},
       "File that says who may come in, as which tenant; read again when it changes. Without it "
       "nobody is asked for anything."},
      {"Security", "--audit-log", "PATH", Text{&C::audit_log},
       "File to which a JSON line is appended for each session that is made, opened, read, "
       "replaced "
       "or deleted, with who did it; opened again at SIGHUP."},

      {"Models", "--models", "PATH", TextList{&C::models},
       "Folder of meta-trained weights, as NAME/VERSION/weights.safetensors; give it several times "
       "for several folders. `auto` is share/mnemosyne/models beside the program's folder, or the "
       "models of the sources that it was built in, if there; `none` is no models."},

      {"State", "--state-dir", "PATH", Text{&C::state_dir},
       "Folder in which sessions survive the daemon: snapshots, logs and copies of models, which "
       "hold the sessions' tokens. One daemon at a time uses it. Without it sessions live in "
       "memory "
       "alone."},
      {"State", "--snapshot-seconds", "SECONDS", NumberOption{&C::snapshot_seconds, 0, 86'400},
       "Seconds after which a session with new steps gets a snapshot: what a crash may cost. 0 is "
       "never."},
      {"State", "--snapshot-steps", "COUNT", NumberOption{&C::snapshot_steps, 0, kTiB},
       "Steps after which a session gets a snapshot, too; 0 is never."},
      {"State", "--snapshots-kept", "COUNT", NumberOption{&C::snapshots_kept, 1, 1000},
       "Snapshots kept of each session, beside those that clients pinned."},
      {"State", "--snapshot-buffer", "BYTES", NumberOption{&C::snapshot_buffer, kMiB, kTiB, true},
       "Memory into which a snapshot copies a state, beside --memory-max, while it is taken. A "
       "larger state makes its session's steps wait for the disk."},
      {"State", "--state-max", "BYTES", NumberOption{&C::state_max, 0, 1024 * kTiB, true},
       "Bytes that all sessions may have on the disk; beyond it no snapshots are taken. 0 is no "
       "bound."},
      {"State", "--log-max", "BYTES", NumberOption{&C::log_max, kMiB, 1024 * kTiB, true},
       "Bytes of a session's log of steps beyond which it gets a snapshot, which trims the log."},
      {"State", "--park-seconds", "SECONDS", NumberOption{&C::park_seconds, 0, kTiB},
       "Seconds without a step after which a session leaves the memory of a GPU for the machine's, "
       "from which its next step brings it back; 0 is only when the GPU's is short."},
      {"State", "--idle-seconds", "SECONDS", NumberOption{&C::idle_seconds, 0, kTiB},
       "Seconds without a step after which a session leaves memory for the disk, from which its "
       "next step brings it back; 0 is only when memory is short."},
      {"State", "--expire-seconds", "SECONDS", NumberOption{&C::expire_seconds, 0, kTiB},
       "Seconds without a step or a stream after which a session is given up; its last snapshot "
       "stays in the folder `expired` for a while. 0 is never."},

      {"Computing", "--device", "NAME", Text{&C::device},
       "Devices that steps run on: cpu, cuda:N, several GPUs as cuda:0,cuda:1, all of them as all, "
       "or auto for a GPU where there is one. A session goes to the one with the most room."},
      {"Computing", "--threads", "COUNT", NumberOption{&C::threads, 0, 1024},
       "Threads that compute on the CPU; 0 is one for each core."},
      {"Computing", "--isa", "NAME", ChoiceOption{&C::isa, {"auto", "baseline", "avx2", "avx512"}},
       "Instruction set on the CPU; results are the same bits only on the same one."},

      {"Bounds", "--memory-max", "BYTES", NumberOption{&C::memory_max, 0, 1024 * kTiB, true},
       "Memory that all sessions together may reserve, in bytes or with a unit such as 8GiB; 0 is "
       "half of the machine's."},
      {"Bounds", "--device-memory-max", "BYTES",
       NumberOption{&C::device_memory_max, 0, 1024 * kTiB, true},
       "Memory of each GPU that all sessions together may reserve; those that idled longest make "
       "room "
       "for others. 0 is nine tenths of what is free at the start. The CPU has none of its own."},
      {"Bounds", "--sessions-max", "COUNT", NumberOption{&C::sessions_max, 1, 1'000'000},
       "Most sessions."},
      {"Bounds", "--parameters-max", "COUNT", NumberOption{&C::parameters_max, 1, 10'000'000},
       "Most parameters (tensors) of a session."},
      {"Bounds", "--streams-max", "COUNT", NumberOption{&C::streams_max, 1, 1'000'000},
       "Most open streams."},
      {"Bounds", "--connections-max", "COUNT", NumberOption{&C::connections_max, 1, 1'000'000},
       "Most connections. Beyond it the oldest one that made no call of a known caller makes "
       "room."},
      {"Bounds", "--queue-max", "COUNT", NumberOption{&C::queue_max, 1, 1'000'000},
       "Most steps and other tasks that wait for the device; beyond it steps are refused for the "
       "moment."},
      {"Bounds", "--steps-per-second", "COUNT", NumberOption{&C::steps_per_second, 0, 1'000'000},
       "Steps of all clients together in a second; 0 is no bound."},
      {"Bounds", "--sessions-per-minute", "COUNT",
       NumberOption{&C::sessions_per_minute, 0, 1'000'000},
       "Sessions that all clients together may make in a minute; 0 is no bound."},
      {"Bounds", "--wire-memory-max", "BYTES",
       NumberOption{&C::wire_memory_max, 0, 1024 * kTiB, true},
       "Memory that all connections together may keep busy, beside --memory-max, in bytes or with "
       "a "
       "unit. Before they reach it, the heaviest ones are ended. 0 is an eighth of the machine's; "
       "at least 64MiB."},
      {"Bounds", "--message-max", "BYTES",
       NumberOption{&C::message_max, 64 * kKiB, 64 * kMiB, true},
       "Largest message that is taken, in bytes or with a unit. Clients with gRPC's defaults take "
       "4 MiB."},
      {"Bounds", "--cell-elements", "COUNT", NumberOption{&C::cell_elements, 256, 16'000'000},
       "Elements of a cell, the unit in which a tensor travels; a cell in float32 must fit into a "
       "message."},

      {"Bounds of a tenant", "--tenant-sessions-max", "COUNT",
       NumberOption{&C::tenant_sessions_max, 0, 1'000'000},
       "Most sessions of a tenant. For all bounds of a tenant 0 is none but those of the daemon, "
       "and "
       "a `limit` line in the file of --access goes before."},
      {"Bounds of a tenant", "--tenant-memory-max", "BYTES",
       NumberOption{&C::tenant_memory_max, 0, 1024 * kTiB, true},
       "Memory that a tenant's sessions together may reserve."},
      {"Bounds of a tenant", "--tenant-device-memory-max", "BYTES",
       NumberOption{&C::tenant_device_memory_max, 0, 1024 * kTiB, true},
       "The part of it that lies on the device; on the CPU that of the states alone."},
      {"Bounds of a tenant", "--tenant-disk-max", "BYTES",
       NumberOption{&C::tenant_disk_max, 0, 1024 * kTiB, true},
       "Bytes that a tenant's sessions together may have in the state folder; beyond it no "
       "snapshots "
       "are taken of them."},
      {"Bounds of a tenant", "--tenant-parameters-max", "COUNT",
       NumberOption{&C::tenant_parameters_max, 0, 1'000'000'000},
       "Most parameters (tensors) of a tenant's sessions together."},
      {"Bounds of a tenant", "--tenant-streams-max", "COUNT",
       NumberOption{&C::tenant_streams_max, 0, 1'000'000},
       "Most open streams of a tenant, exports and imports included."},
      {"Bounds of a tenant", "--tenant-inflight-max", "BYTES",
       NumberOption{&C::tenant_inflight_max, 0, 1024 * kTiB, true},
       "Bytes of a tenant's unary steps that are not answered yet."},
      {"Bounds of a tenant", "--tenant-steps-per-second", "COUNT",
       NumberOption{&C::tenant_steps_per_second, 0, 1'000'000}, "Steps of a tenant in a second."},
      {"Bounds of a tenant", "--tenant-sessions-per-minute", "COUNT",
       NumberOption{&C::tenant_sessions_per_minute, 0, 1'000'000},
       "Sessions that a tenant may make in a minute."},

      {"Times", "--heartbeat-seconds", "SECONDS", NumberOption{&C::heartbeat_seconds, 1, 3600},
       "Seconds of silence after which a stream gets a heartbeat."},
      {"Times", "--step-timeout-seconds", "SECONDS",
       NumberOption{&C::step_timeout_seconds, 1, 86'400},
       "Seconds that a client may be silent in the middle of a step before its stream is ended."},
      {"Times", "--stream-idle-seconds", "SECONDS",
       NumberOption{&C::stream_idle_seconds, 1, 604'800},
       "Seconds without a step after which an open stream is ended; clients open it again for "
       "their "
       "next step."},
      {"Times", "--drain-seconds", "SECONDS", NumberOption{&C::drain_seconds, 1, 3600},
       "Seconds that a shutdown waits for steps in hand and for clients to leave."},
      {"Times", "--drain-snapshot-seconds", "SECONDS",
       NumberOption{&C::drain_snapshot_seconds, 1, 86'400},
       "Seconds that a shutdown then takes for the last snapshots."},

      {"Logs", "--log-level", "LEVEL",
       ChoiceOption{&C::log_level, {"debug", "info", "warning", "error"}},
       "Least level that is logged, to standard error."},
      {"Logs", "--log-format", "FORMAT", ChoiceOption{&C::log_format, {"text", "json"}},
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
  if (const auto* flag = std::get_if<Flag>(&option.value)) {
    return app.add_flag(option.name, config.*(*flag), option.help);
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

// Shows an option as its flag and unit, then what it does in lines that fit a terminal, with its
// bounds or choices and its default.
class HelpFormatter final : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    const std::string name = make_option_name(option, is_positional);
    std::string unit = option->get_type_name();
    std::string help = option->get_description();
    for (const Option& entry : Options()) {
      if (!option->check_name(entry.name)) continue;
      unit = entry.unit;
      help += Bounds(entry);
    }
    if (!option->get_default_str().empty()) help += " Default: " + option->get_default_str() + ".";
    return "  " + name + (unit.empty() ? "" : " " + unit) + "\n" + Wrapped(help);
  }

 private:
  static std::string Bounds(const Option& option) {
    if (const auto* number = std::get_if<NumberOption>(&option.value)) {
      return fmt::format(" From {} to {}.", number->minimum, number->maximum);
    }
    if (const auto* choice = std::get_if<ChoiceOption>(&option.value)) {
      return fmt::format(" One of {}.", fmt::join(choice->choices, ", "));
    }
    return "";
  }

  static std::string Wrapped(const std::string& text) {
    constexpr size_t kColumns = 80;
    constexpr std::string_view kIndent = "      ";
    std::string lines;
    std::string line(kIndent);
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      if (line.size() > kIndent.size() && line.size() + 1 + word.size() > kColumns) {
        lines += line + "\n";
        line = kIndent;
      }
      line += (line.size() > kIndent.size() ? " " : "") + word;
    }
    return lines + line + "\n";
  }
};

}  // namespace

void AddOptions(CLI::App& app, ServerConfig& config) {
  app.formatter(std::make_shared<HelpFormatter>());
  for (const Option& option : Options()) {
    CLI::Option* const added = Add(app, config, option);
    if (!std::holds_alternative<Flag>(option.value)) added->capture_default_str();
    added->type_name(option.unit)->group(std::string(option.group));
    if (const auto* list = std::get_if<TextList>(&option.value)) {
      added->default_str(fmt::format("{}", fmt::join(config.*(*list), " ")));
    }
  }
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.set_config("--config", "", "File with any of these options, as `name = value` in TOML.")
      ->type_name("PATH")
      ->group("Files");
}

namespace {

// Puts folders in the place of `auto` and `none`.
absl::Status CompleteModels(std::vector<std::string>& models) {
  std::vector<std::string> folders;
  for (const std::string& model : models) {
    std::error_code error;
    if (model == "none") continue;
    if (model == "auto") {
      if (const std::string found = FindInstalledModels(); !found.empty()) folders.push_back(found);
    } else if (std::filesystem::is_directory(model, error)) {
      folders.push_back(model);
    } else {
      return InvalidArgument("--models {}: there is no such folder", model);
    }
  }
  models = std::move(folders);
  return absl::OkStatus();
}

}  // namespace

namespace {

absl::Status CheckTlsOptions(const ServerConfig& config) {
  if (config.tls_certificate.empty() != config.tls_key.empty()) {
    return InvalidArgument("--tls-certificate and --tls-key are given together or not at all");
  }
  if (config.tls_certificate.empty() && !config.tls_client_ca.empty()) {
    return InvalidArgument("--tls-client-ca needs --tls-certificate and --tls-key");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CompleteConfig(ServerConfig& config) {
  std::erase(config.listen, "none");
  if (config.listen.empty() && config.socket.empty()) {
    return InvalidArgument("nothing to listen on: give --listen HOST:PORT or --socket PATH");
  }
  MNEMO_RETURN_IF_ERROR(CheckTlsOptions(config));
  MNEMO_RETURN_IF_ERROR(CompleteModels(config.models));
  if (config.memory_max == 0) config.memory_max = UsableMemoryBytes() / 2;
  if (config.wire_memory_max == 0) {
    config.wire_memory_max = std::max(UsableMemoryBytes() / 8, kWireMemoryMin);
  }
  if (config.wire_memory_max < kWireMemoryMin) {
    return InvalidArgument("--wire-memory-max {}: expected at least {} bytes",
                           config.wire_memory_max, kWireMemoryMin);
  }
  if (config.threads == 0) config.threads = UsableCores();
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
