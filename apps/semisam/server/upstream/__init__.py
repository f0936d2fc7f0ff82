"""Every patch of, and every reach into, a package that is not ours: one a file, with what is wrong there and why.

A file names the package and its version, what is wrong, what is done about it, and the source. Each has a test in
``tests/server/upstream`` that fails when the package no longer has what is patched, or no longer needs it: then the
file goes. ``installing`` puts them in place, ``replacing`` is how.

ML: MONAI Label 0.8.5.

| file                   | package         | what is wrong                                | what is done             |
|------------------------|-----------------|----------------------------------------------|--------------------------|
| ``app_loading``        | ML              | forgets only ``lib`` of an earlier load      | all our modules go       |
| ``background_jobs``    | ML              | loses a job's last words, leaves jobs behind | our own run and stop     |
| ``cross_origin``       | ML              | pages of every origin may read everything    | origins of the settings  |
| ``datastore_file``     | ML              | processes overwrite each other's list        | transactions             |
| ``dicom_proxy``        | ML              | waits without end, leaves the question out   | a route of ours          |
| ``dicomweb_client``    | requests 2      | no timeout by default                        | an adapter with timeouts |
| ``dicomweb_settings``  | ML              | searches for CT only, keeps lists two hours  | these count as not set   |
| ``endpoint_input``     | ML              | a malformed request gives a bare 500         | checked before (400)     |
| ``gpu_route``          | ML              | no ``nvidia-smi`` gives a bare 500           | a route of ours (404)    |
| ``image_download``     | ML              | sends a part of a scan in several files      | one file is made         |
| ``infer_endpoint``     | ML              | ``output=dicom_seg`` is refused              | the app makes the SEG    |
| ``job_requests``       | ML              | jobs start without a look at the request     | checked before           |
| ``local_datastore``    | ML              | does not say in which folder files lie       | its private attribute    |
| ``log_secrets``        | ML              | passwords stand in logs                      | formatters blacken them  |
| ``login_route``        | ML              | a wrong password gives a bare 500            | a route of ours (401)    |
| ``middleware``         | Starlette 1     | no middleware after the start                | the stack is made anew   |
| ``model_files``        | ML              | any file replaces the network in service     | routes of ours           |
| ``ohif``               | OHIF 3.10 in ML | labels cannot be saved, failures not seen    | scripts after OHIF's     |
| ``own_login``          | ML              | knows users of a Keycloak realm only         | the app says who asks    |
| ``reload_route``       | ML              | anybody may reload the app                   | the route goes           |
| ``routes``             | ML, Starlette 1 | routes cannot be replaced                    | ours are moved first     |
| ``sessions``           | ML              | ids and archives lead out of the folder      | checked before           |
| ``temporary_files``    | ML              | uploads stay in the system's folder          | a private folder         |
| ``token_check``        | ML, PyJWT 2     | every token is refused                       | algorithms are named     |
| ``validation_answers`` | FastAPI 0.165   | NaN in a malformed request gives a bare 500  | answered without it      |
"""
