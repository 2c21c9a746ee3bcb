# What every target of the project is made with: one function for a library, a program, a test
# and a benchmark; warnings and sanitizers in one place.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
# Programs find their libraries beside them after an installation or in a bundle.
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

# A project that adds this one as a subdirectory sees the packages, too.
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(Protobuf REQUIRED)      # Module mode: before gRPC, whose config needs it so.
find_package(gRPC CONFIG REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(Eigen3 CONFIG REQUIRED)
find_package(fmt CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
if(MNEMOSYNE_TESTS)
  find_package(GTest CONFIG REQUIRED)
  include(GoogleTest)
endif()
if(MNEMOSYNE_BENCHMARKS)
  find_package(benchmark CONFIG REQUIRED)
endif()
if(MNEMOSYNE_CUDA)
  # Code for A100, L4 and L40, and H100 and H200, and what the driver compiles for later chips.
  # -DCMAKE_CUDA_ARCHITECTURES=90 is a third of the work for who develops on one of the last.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 89-real 90)
  endif()
  add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  find_package(CUDAToolkit REQUIRED)
endif()

# Warnings, the x86-64-v2 baseline, and the rule that every multiply-add is written as it is
# meant: the compiler fuses none of its own accord, so that g++ and clang give the same bits.
add_library(mnemosyne_options INTERFACE)
set(_cxx_flags -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor
    -ffp-contract=off)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND _cxx_flags -march=x86-64-v2)
endif()
if(MNEMOSYNE_WERROR)
  list(APPEND _cxx_flags -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND _cxx_flags -Wthread-safety)
endif()
foreach(_flag IN LISTS _cxx_flags)
  target_compile_options(mnemosyne_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${_flag}>)
endforeach()
target_include_directories(mnemosyne_options INTERFACE ${PROJECT_SOURCE_DIR})
if(MNEMOSYNE_SANITIZE)
  target_compile_options(mnemosyne_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${MNEMOSYNE_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all>)
  target_link_options(mnemosyne_options INTERFACE -fsanitize=${MNEMOSYNE_SANITIZE})
endif()

# What release builds defend themselves with, in generated code, too; scripts/check_hardening.py
# looks at the programs. An attacker who finds a way to write where he should not finds no address
# to jump to that he knows, and no table of functions to write to.
set(_hardened $<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>)
add_compile_options(
  "$<${_hardened}:-fstack-protector-strong;-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=2>")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  add_compile_options("$<${_hardened}:-fcf-protection=full>")
endif()
add_link_options($<$<CONFIG:Release>:LINKER:-z,relro,-z,now,-z,noexecstack>)

# mnemosyne_library(NAME n [SHARED] SRCS ... DEPS ...): the library of one folder, `mnemosyne::n`,
# which programs load if it is SHARED. DEPS is the whole list of what the folder may use.
function(mnemosyne_library)
  cmake_parse_arguments(ARG "SHARED" "NAME" "SRCS;DEPS" ${ARGN})
  set(_kind STATIC)
  if(ARG_SHARED)
    set(_kind SHARED)
  endif()
  if(ARG_SRCS)
    add_library(mnemosyne_${ARG_NAME} ${_kind} ${ARG_SRCS})
    set_target_properties(mnemosyne_${ARG_NAME} PROPERTIES
      LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
    target_link_libraries(mnemosyne_${ARG_NAME} PUBLIC ${ARG_DEPS} PRIVATE mnemosyne_options)
    target_include_directories(mnemosyne_${ARG_NAME} PUBLIC ${PROJECT_SOURCE_DIR})
    target_compile_features(mnemosyne_${ARG_NAME} PUBLIC cxx_std_20)
  else()
    add_library(mnemosyne_${ARG_NAME} INTERFACE)
    target_link_libraries(mnemosyne_${ARG_NAME} INTERFACE ${ARG_DEPS})
    target_include_directories(mnemosyne_${ARG_NAME} INTERFACE ${PROJECT_SOURCE_DIR})
  endif()
  add_library(mnemosyne::${ARG_NAME} ALIAS mnemosyne_${ARG_NAME})
endfunction()

# mnemosyne_program(NAME n SRCS ... DEPS ...): a program in bin/.
function(mnemosyne_program)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS} mnemosyne_options)
endfunction()

# mnemosyne_test(NAME n SRCS ... DEPS ... [LABELS ...]): a GoogleTest program whose cases CTest
# lists one by one.
function(mnemosyne_test)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS} GTest::gmock_main mnemosyne_options)
  gtest_discover_tests(${ARG_NAME} DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT 1200 LABELS "${ARG_LABELS}")
endfunction()

# mnemosyne_benchmark(NAME n SRCS ... DEPS ...): a Google Benchmark program.
function(mnemosyne_benchmark)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS} benchmark::benchmark mnemosyne_options)
endfunction()
