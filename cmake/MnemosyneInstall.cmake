# The component `Client`: what programs of others are built with. The C++ client as archives with its
# headers, the wire's .proto files, the library of FLT attention with its C header, and files for
# pkg-config. `cmake --install BUILD --component Client --prefix WHERE` installs it.
include(GNUInstallDirs)

set(_headers ${CMAKE_INSTALL_INCLUDEDIR}/mnemosyne) # A folder of its own: it has base/, too.
install(
  TARGETS mnemosyne_base mnemosyne_client mnemosyne_codec mnemosyne_proto
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT Client)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/client/cpp/include/ DESTINATION ${_headers}
        COMPONENT Client FILES_MATCHING PATTERN "*.h")
install(FILES ${PROJECT_SOURCE_DIR}/base/data_type.h ${PROJECT_SOURCE_DIR}/base/error.h
        DESTINATION ${_headers}/base COMPONENT Client)
install(DIRECTORY ${PROJECT_BINARY_DIR}/generated/ DESTINATION ${_headers}
        COMPONENT Client FILES_MATCHING PATTERN "*.pb.h")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/proto/mnemosyne
        DESTINATION ${CMAKE_INSTALL_DATADIR}/mnemosyne/proto
        COMPONENT Client FILES_MATCHING PATTERN "*.proto")

install(TARGETS mnemosyne_flt LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT Client)
if(MNEMOSYNE_CUDA) # Kernels are a library of their own then, of the daemon, too.
  install(TARGETS mnemosyne_kernels LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT Client)
  install(TARGETS mnemosyne_kernels LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
set_target_properties(mnemosyne_flt mnemosyne_kernels PROPERTIES INSTALL_RPATH "$ORIGIN")
install(FILES ${PROJECT_SOURCE_DIR}/kernels/c_api/flt.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} RENAME mnemosyne_flt.h COMPONENT Client)

# From the folder of the files for pkg-config up to the prefix, wherever that is moved to.
file(RELATIVE_PATH MNEMOSYNE_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" MNEMOSYNE_UP "${MNEMOSYNE_UP}")
foreach(_package mnemosyne-client mnemosyne-flt)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/${_package}.pc.in
                 ${PROJECT_BINARY_DIR}/${_package}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${_package}.pc
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT Client)
endforeach()
