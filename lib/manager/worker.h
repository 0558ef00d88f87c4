/* Threads for what may block: lib/loop has them, since the image service needs them as well. */
#pragma once

#include "lib/loop/worker.h"
