/* The Varlink interface files of this folder as text, embedded at build time. */
#pragma once

extern const char manager_interface_text[]; /* io.holdfast.Manager */
extern const char shim_interface_text[];    /* io.holdfast.Shim */
extern const char images_interface_text[];  /* io.holdfast.Images */
