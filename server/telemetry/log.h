// Structured logs: fixed words, then values by key, on standard error.
#pragma once

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"

namespace mnemosyne::server {

// A value by its key.
struct LogField {
  template <typename T>
  LogField(std::string_view name, const T& field)
      : key(name), value(fmt::format("{}", field)), is_number(std::is_arithmetic_v<T>) {}

  std::string_view key;
  std::string value;
  bool is_number;  // JSON needs no quotes around it.
};

enum class LogFormat { kText, kJson };

// Sets the one logger up. Called once, at start.
void SetUpLogging(spdlog::level::level_enum level, LogFormat format);

// Logs an event: text as `words key=value ...`, JSON as one object a line. Thread-safe.
// info: a session's start and end; debug: a step; warn: we coped; error: someone must look.
void Log(spdlog::level::level_enum level, std::string_view words,
         std::initializer_list<LogField> fields = {});

}  // namespace mnemosyne::server
