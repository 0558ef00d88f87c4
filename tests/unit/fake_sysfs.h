/* A made-up host: PCI devices as plain files below the fixture's folder, and a thread that does what the kernel does when a driver's files are
 * written to. What a driver may do wrong is made with the file itself: a folder in place of "unbind" fails, a FIFO holds the writer up. */
#pragma once

#include <pthread.h>

#include "tests/unit/fixture.h"

/* Where it is; before anything else. */
void fake_root(int fd);

/* A PCI device, with its driver (NULL: none), in an IOMMU group (-1: none). Drivers are made as they are named. */
void fake_device(const char *address, const char *class, const char *driver, int group);
void fake_driver(const char *name);
/* It is pulled out. */
void fake_remove_device(const char *address);
/* "", or the driver's name. The text is good until the next call. */
const char *fake_driver_of(const char *address);
const char *fake_override_of(const char *address);
/* Puts a file below the fixture's folder, with the folders above it. */
void fake_file(const char *path, const char *text);

void fake_kernel_start(void);
void fake_kernel_stop(void);
