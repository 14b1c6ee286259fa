"""Ansible module: directories that belong to one user, all in one run of a module.

What `file` does with `state: directory`, for each of a list; a run of a module takes as long as a
second, and a site has six directories of certificates.
"""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: directories
short_description: Have directories, all with the same owner and mode
options:
  paths: {type: list, elements: path, required: true, description: The directories, parents first.}
extends_documentation_fragment: [files]
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path", "required": True}},
        add_file_common_args=True,
        supports_check_mode=True,
    )
    changed = []
    for path in map(Path, module.params["paths"]):
        # From the outermost: parents that are missing get the same owner and mode.
        for directory in reversed([path, *path.parents]):
            if not directory.is_dir():
                changed.append(str(directory))
                if module.check_mode:
                    continue
                try:
                    directory.mkdir()
                except OSError as error:
                    module.fail_json(f"{directory} cannot be made: {error.strerror}")
            elif directory != path:
                continue
            attributes = module.load_file_common_arguments(module.params, path=str(directory))
            if module.set_fs_attributes_if_different(attributes, False):
                changed.append(str(directory))
    module.exit_json(changed=bool(changed), paths=sorted(set(changed)))


if __name__ == "__main__":
    main()
