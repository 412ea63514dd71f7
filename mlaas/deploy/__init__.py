"""Installing the service on machines: look whether one is fit for it (`mlaas doctor`), and run the playbooks (`mlaas deploy`)."""
