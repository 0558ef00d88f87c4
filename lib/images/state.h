/* What the service is made of; internal to the service's files. */
#pragma once

#include <pthread.h>

#include "lib/base/dirs.h"
#include "lib/base/json.h"
#include "lib/images/store.h"
#include "lib/images/task.h"
#include "lib/loop/worker.h"
#include "lib/varlink/service.h"

#define FILE_IMAGES_SOCKET "images.sock"
#define FILE_IMAGES_LOCK "images.lock"
#define FILE_STORE_LOCK ".lock"
#define IMAGES_INTERFACE "io.holdfast.Images"

struct activity;

struct images_service {
    struct dirs dirs;
    gid_t group;
    struct image_store store;
    int run_fd, lock_fd, store_lock_fd;
    struct loop *loop;
    struct worker *worker;
    struct varlink_interface *interface;
    struct varlink_service *service;
    ev_signal signals[3];
    bool stopping;

    struct rate_limiter limiter;
    pthread_mutex_t newest_mutex; /* whoever changes a .newest.json */
    /* activity.c */
    struct activity *activities;
    size_t n_activities;
    ev_async wake;
    ev_timer tick;
    pthread_mutex_t finished_mutex;
    struct activity *finished;
};
