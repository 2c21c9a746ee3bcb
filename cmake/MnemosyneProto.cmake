# mnemosyne_proto_library(NAME n PROTOS ... SERVICES ...): C++ messages of .proto files, and gRPC
# stubs of those that hold services, as `mnemosyne::n`. Generated code goes to the build folder and
# is compiled without our warnings.
function(mnemosyne_proto_library)
  cmake_parse_arguments(ARG "" "NAME" "PROTOS;SERVICES" ${ARGN})
  set(_out ${PROJECT_BINARY_DIR}/generated)
  file(MAKE_DIRECTORY ${_out})
  set(_generated)
  foreach(_proto IN LISTS ARG_PROTOS ARG_SERVICES)
    string(REGEX REPLACE "\\.proto$" "" _stem ${_proto})
    set(_plugin)
    set(_sources ${_out}/${_stem}.pb.cc)
    set(_headers ${_out}/${_stem}.pb.h)
    if(_proto IN_LIST ARG_SERVICES)
      set(_plugin --grpc_out=${_out}
          --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin>)
      list(APPEND _sources ${_out}/${_stem}.grpc.pb.cc)
      list(APPEND _headers ${_out}/${_stem}.grpc.pb.h)
    endif()
    add_custom_command(
      OUTPUT ${_sources} ${_headers}
      COMMAND protobuf::protoc --proto_path=${CMAKE_CURRENT_SOURCE_DIR} --cpp_out=${_out}
        ${_plugin} ${CMAKE_CURRENT_SOURCE_DIR}/${_proto}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${_proto}
      COMMENT "Generating ${_stem}"
      VERBATIM)
    list(APPEND _generated ${_sources})
  endforeach()
  # The generated code alone, for tools that read it without building it.
  add_custom_target(mnemosyne_${ARG_NAME}_sources DEPENDS ${_generated})
  add_library(mnemosyne_${ARG_NAME} STATIC ${_generated})
  target_compile_options(mnemosyne_${ARG_NAME} PRIVATE -w -O1)
  if(MNEMOSYNE_SANITIZE)
    target_compile_options(mnemosyne_${ARG_NAME} PRIVATE -fsanitize=${MNEMOSYNE_SANITIZE})
  endif()
  target_include_directories(mnemosyne_${ARG_NAME} SYSTEM PUBLIC ${_out})
  target_link_libraries(mnemosyne_${ARG_NAME} PUBLIC protobuf::libprotobuf gRPC::grpc++)
  add_library(mnemosyne::${ARG_NAME} ALIAS mnemosyne_${ARG_NAME})
endfunction()
